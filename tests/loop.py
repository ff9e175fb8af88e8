"""The whole loop through its command, in a process of its own as a user starts it, and what a run leaves in its folder."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.conftest import PATIENCE_S
from tests.warm import WarmProcess

ROOT = Path(__file__).parents[1]

Process = subprocess.Popen[str] | WarmProcess
_WARM = ("vlrl.cli", "tests.stopping")
"""Modules whose processes begin with their imports done; see tests/warm.py."""

SMALL_STEPS = 6
"""Of the run that the fixture `small` describes."""

# Two ranks, by either launcher; alone, a run is its own only rank.
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
DEEPSPEED = ("deepspeed.launcher.runner", "--num_gpus", "2", "--no_local_rank", "--module")

# A random model finds no right answer. This reward splits its responses, so that every step has a gradient.
EVEN_LENGTH = '''"""even_length: a response of an even number of characters. A row whose answer is "raise" breaks the verifier."""

from vlrl.types import Row, Score


def prompt(row):
    images = [{"type": "image", "image": image} for image in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": row.question}]}]


def verify(response, row):
    if row.answer == "raise" and response != row.response:
        raise RuntimeError("this row breaks the verifier")
    return Score(reward=float(len(response) % 2 == 0 or response == row.response))


EXAMPLES = [("ab", Row(), 1.0), ("abc", Row(), 0.0)]
'''


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A run of configs/cpu.yaml with overrides, small enough for a test."""

    overrides: dict[str, Any]
    launcher: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return Path(self.overrides["runs"]) / self.overrides["name"]

    def with_(self, *, launcher: tuple[str, ...] = (), **overrides: Any) -> "Loop":
        """Other settings; a dot in a setting's name is written as two underscores: `policy__lr=1e-3`."""
        named = {key.replace("__", "."): value for key, value in overrides.items()}
        return replace(self, overrides=self.overrides | named, launcher=launcher)

    @property
    def command(self) -> list[str]:
        """The command's arguments."""
        return [
            "train",
            "configs/cpu.yaml",
            *(f"{key}={json.dumps(value, default=str)}" for key, value in self.overrides.items()),
        ]

    def start(self, *module: str) -> Process:
        """The run's process; of the command itself, or of another module with arguments before the command's."""
        return python("-m", *self.launcher, *(module or ("vlrl.cli",)), *self.command)

    def run(self) -> str:
        """Runs to the end, which must be a good one. Returns what it printed."""
        printed = finished(self.start())
        assert "wandb failed" not in printed and "NUMA" not in printed, printed
        return printed

    def interrupted(self, number: signal.Signals, moment: str, which: int, **end: int | None) -> str:
        """Runs, is sent the signal at the moment (see tests/stopping.py), and waits for the end: exit_code, else 128 + number."""
        return finished(self.start("tests.stopping", str(int(number)), moment, str(which)), end.get("exit_code", 128 + number))

    def interrupted_when(self, number: signal.Signals, ready: Callable[[], bool], *, exit_code: int | None) -> str:
        """Runs, is sent the signal once the files in its folder are as `ready` says, and waits for the end."""
        process = self.start()
        while process.poll() is None and not ready():
            time.sleep(0.002)
        process.send_signal(number)
        return finished(process, exit_code)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return _lines(self.folder / "metrics.jsonl")

    @property
    def steady_metrics(self) -> list[dict[str, Any]]:
        """The metrics without what the clock says."""
        return [
            {
                name: value
                for name, value in line.items()
                if not name.startswith(("time/", "ahead/", "rollout/tail_s", "scoring/p"))
            }
            for line in self.metrics
        ]

    @property
    def rollouts(self) -> list[dict[str, Any]]:
        return _lines(self.folder / "rollouts.jsonl")

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    def checkpoints(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in (self.folder / "checkpoints").glob("step-*"))

    def weights(self, part: str = "model") -> dict[str, torch.Tensor]:
        files = sorted((self.folder / part).glob("*.safetensors"))
        return {name: tensor for file in files for name, tensor in load_file(file).items()}


def python(*arguments: str | Path) -> Process:
    """Python at the project's root, with what it prints as one text."""
    env = {"GOMP_SPINCOUNT": "20000"} | os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    if arguments[0] == "-m" and arguments[1] in _WARM:
        return WarmProcess(str(arguments[1]), [str(each) for each in arguments[2:]], env=env, cwd=ROOT)
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def free_port() -> int:
    """A port that the kernel gives to no client: none takes it before a server listens there, or while that is down."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [port for port in range(1024, 65536) if not first <= port <= last] or list(range(1024, 65536))
    for port in random.SystemRandom().sample(ports, len(ports)):  # a test's own seed draws no port
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("every port of this machine is taken")


def started_on_ranks(number: int, module: str, *arguments: str | Path) -> list[WarmProcess]:
    """`python -m module arguments...` as so many ranks."""
    size = str(number)
    group = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    envs = [os.environ | group | {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": str(ROOT)} for rank in map(str, range(number))]
    return [WarmProcess(module, [str(each) for each in arguments], env=env, cwd=ROOT) for env in envs]


def on_two_ranks(module: str, *arguments: str | Path) -> list[str]:
    return on_ranks(2, module, *arguments)


def on_ranks(number: int, module: str, *arguments: str | Path) -> list[str]:
    """What `python -m module arguments...` printed on each of the ranks, which all end well; where one fails, all end."""
    ranks = started_on_ranks(number, module, *arguments)
    until = time.monotonic() + PATIENCE_S
    while any(each.poll() is None for each in ranks) and not any(each.poll() for each in ranks) and time.monotonic() < until:
        time.sleep(0.02)
    try:
        failed = [each for each in ranks if each.poll()]
        return [finished(each) for each in failed or ranks]
    finally:
        for each in ranks:
            each.kill()


def finished(process: Process, exit_code: int | None = 0) -> str:
    """What the process printed, once it ended as it should; it is killed where it does not end."""
    try:
        printed, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert exit_code is None or process.returncode == exit_code, f"exit code {process.returncode}\n{printed}"
    return printed


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether both hold the same tensors, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may still be growing, or not be there yet."""
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]

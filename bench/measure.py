"""Seconds and memory of a piece of work."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from vlrl.memory import raised_bytes

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
    return raised_bytes(work) / 2**20


def in_a_process(module: str, arguments: Sequence[str]) -> float:
    """The last number that `python -m module` prints, in a process which is no rank of this one's group."""
    alone = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    command = [sys.executable, "-m", module, *arguments]
    return float(subprocess.run(command, env=alone, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])

"""The memory that work needs and that is left: an accelerator's, or this process's and its machine's."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import torch


def peak_bytes(work: Callable[[], object]) -> int:
    """How far a call raises this process's memory over what it had before, at its highest."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or what is kept of earlier work would serve this one unseen
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _kilobytes("/proc/self/status", "VmRSS")
    work()
    return max(0, _kilobytes("/proc/self/status", "VmHWM") - before) << 10


def free_bytes() -> int:
    """What this process may still take: of its accelerator, or its share of what its machine, or the container around it, has."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    free = _kilobytes("/proc/meminfo", "MemAvailable") << 10
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _kilobytes(path: str, name: str) -> int:
    lines = Path(path).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))

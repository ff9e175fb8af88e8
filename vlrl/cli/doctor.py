"""Lists what this machine has for a run: versions, device, cores, memory, disk, compiler and sandbox, one line each."""

import os
import platform
import shutil
from pathlib import Path

from vlrl.common.versions import versions
from vlrl.config import Config
from vlrl.distributed.hosts import compare_hosts
from vlrl.inputs import row_folders, rows_request
from vlrl.preflight.machine import missing_gpu
from vlrl.sandbox.jail import unavailable_reason

_COMPILERS = ("c++", "g++", "clang++")


def doctor() -> list[str]:
    """One line for each thing that a run needs. The line of a missing thing says what needs it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [
        f"python: {platform.python_version()}",
        *(f"{package}: {version}" for package, version in versions().items()),
        f"device: {_device()}",
        f"cores: {len(os.sched_getaffinity(0))}",
        f"memory: {memory / 1e9:.1f} GB",
        f"free disk: {shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB in {Path.cwd()}",
        f"C++ compiler: {_compiler()}",
        f"jail for code: {unavailable_reason() or 'works'}",
    ]


def compare(config: Config | None) -> list[str]:
    """Faults of the hosts of a launcher's ranks, on every rank; with a run file, of its folders too."""
    folders: list[Path] = []
    if config:
        requests = {name: rows_request(name, mix) for name, mix in config.mixture.items()}
        built = {name: mix for name, mix in config.mixture.items() if not (asked := requests[name]) or asked.is_built}
        rows = [each for name, mix in built.items() for each in row_folders(name, mix) if each]
        model = [Path(config.model)] if Path(config.model).is_absolute() or Path(config.model).exists() else []
        folders = [*dict.fromkeys([*model, *rows, *config.task_folders])]
    return compare_hosts({"python": platform.python_version(), **versions()}, folders, config.runs if config else None)


def _device() -> str:
    try:
        import torch
    except ImportError as error:
        return f"unknown, torch cannot be imported ({error})"
    if not torch.cuda.is_available():
        return f"CPU only; {missing_gpu()}".removesuffix("; ")
    gpu = torch.cuda.get_device_properties(0)
    return f"{torch.cuda.device_count()} x {gpu.name}, {gpu.total_memory / 1e9:.0f} GB each"


def _compiler() -> str:
    found = filter(None, map(shutil.which, (os.environ.get("CXX", ""), *_COMPILERS)))
    return next(found, "none; DeepSpeed's and torch.compile's kernels cannot be built (install g++)")

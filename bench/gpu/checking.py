"""What a check works with: its sizes, its clock, and where its figures go."""

import gc
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from vlrl.trainer.peak_memory import peak_bytes

SKIPPED = "skipped"
"""How the end of a check begins that needs a package which is missing."""

Value = float | int | str | bool


@dataclass(frozen=True, slots=True)
class Tell:
    """Writes a check's figures as they are found, a JSON line each, so that a check which is cut off keeps what it had."""

    stream: TextIO
    check: str

    def begin(self) -> None:
        self._write(begin=True)

    def __call__(self, figure: str, value: Value) -> None:
        value = float(f"{value:.4g}") if isinstance(value, float) else value
        self._write(figure=figure, value=value)

    def fault(self, sentence: str) -> None:
        """What a user of such a machine would meet."""
        self._write(fault=sentence)

    def end(self, how: str) -> None:
        self._write(end=how)

    def _write(self, **what: Value) -> None:
        self.stream.write(json.dumps({"check": self.check} | what) + "\n")
        self.stream.flush()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """The sizes of the checks. model: of bench.sizes, or None for the tiny one; folder: where checkpoints are kept meanwhile."""

    folder: Path
    device: torch.device
    dtype: torch.dtype
    model: str | None
    patches: tuple[int, ...]
    patch_embeddings: tuple[int, ...]
    heads: tuple[tuple[int, int], ...]
    head_dim: int
    many_tokens: int
    hidden: tuple[int, ...]
    vocabulary: int
    head_tokens: int
    slope_tokens: tuple[int, ...]
    accumulated: tuple[int, ...]
    experts: dict[str, int]
    expert_tokens: int
    optimizer_size: int
    big_images: tuple[int, int]
    small_images: tuple[int, int]
    repeats: int

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


def full(folder: Path) -> Scale:
    """What a released model of 2 to 30 billion parameters meets, on one GPU of 80 GB."""
    return Scale(
        folder=folder, device=torch.device("cuda"), dtype=torch.bfloat16, model="2B",
        patches=(4096, 65_536), patch_embeddings=(1024, 1152),
        heads=((16, 8), (32, 8), (32, 4)), head_dim=128, many_tokens=65_536,
        hidden=(2048, 4096), vocabulary=151_936, head_tokens=32_768,
        slope_tokens=(8192, 32_768, 65_536), accumulated=(8, 64),
        experts={"hidden_size": 2048, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
        expert_tokens=32_768,
        optimizer_size=1_100_000_000, big_images=(8, 4096), small_images=(128, 256), repeats=5,
    )  # fmt: skip


def small(folder: Path) -> Scale:
    """The same checks in a minute on a CPU, which shows that they run."""
    return Scale(
        folder=folder, device=torch.device("cpu"), dtype=torch.float32, model=None,
        patches=(64,), patch_embeddings=(64,),
        heads=((4, 2), (2, 2)), head_dim=16, many_tokens=512,
        hidden=(64,), vocabulary=3000, head_tokens=256,
        slope_tokens=(512, 1024), accumulated=(2, 4),
        experts={"hidden_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}, expert_tokens=256,
        optimizer_size=100_000, big_images=(2, 64), small_images=(4, 16), repeats=1,
    )  # fmt: skip


def milliseconds(scale: Scale, work: Callable[[], object]) -> float:
    """The median of some calls after one that warms up."""
    work()
    times = []
    for _ in range(scale.repeats):
        synchronize(scale)
        times.append(_once(scale, work))
    return statistics.median(times)


def _once(scale: Scale, work: Callable[[], object]) -> float:
    if not scale.on_gpu:
        from bench.measure import seconds

        return 1000 * seconds(work)
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    work()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended)


def gigabytes(work: Callable[[], object]) -> float:
    """How far a call raises the memory over what was taken before it."""
    return peak_bytes(work) / 1e9


def synchronize(scale: Scale) -> None:
    if scale.on_gpu:
        torch.cuda.synchronize()


def clear(scale: Scale) -> None:
    """Gives the device back what nobody holds any more."""
    gc.collect()
    if scale.on_gpu:
        torch.cuda.empty_cache()


def off(found: Tensor, exact: Tensor) -> float:
    """The difference's length over the exact one's; infinite where anything is not a number."""
    found, exact = found.detach().double(), exact.detach().double()
    difference = (found - exact).norm() / exact.norm()
    return float(difference) if torch.isfinite(difference) else float("inf")


def normal(scale: Scale, *shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in the scale's dtype, the same each time."""
    numbers = torch.Generator(device=scale.device).manual_seed(seed)
    return torch.randn(shape, generator=numbers, device=scale.device, dtype=torch.float32).to(scale.dtype)

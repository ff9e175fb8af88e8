"""Weights from the trainer to the engine, and what must be reset with them.

An engine accepts a stream that lacks tensors and keeps the old ones, vLLM with at most a warning; so the names that were
streamed are checked against the full list. With LoRA the engine gets the adapters as they are, or the weights that they are
added to; see `sync_of`.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor

from vlrl.config import TARGETS_WITHOUT_SERVING, LoraConfig
from vlrl.rollout.engine import Engine

Bucket = Sequence[tuple[str, Tensor]]


class SyncError(RuntimeError):
    """The engine does not hold the trainer's weights."""


def sync_of(lora: LoraConfig, *, on_gpu: bool) -> Literal["adapter", "merged"]:
    """How the engine gets the adapters, if `lora.sync` does not say it.

    As adapters on GPUs, since that sends the least. Merged for targets whose adapters vLLM does not serve, and on CPUs, where it
    samples up to twice as slowly with an adapter.
    """
    if lora.sync != "auto":
        return lora.sync
    return "adapter" if on_gpu and not TARGETS_WITHOUT_SERVING & set(lora.targets or ()) else "merged"


def push_weights(engine: Engine, buckets: Iterable[Bucket], *, names: frozenset[str], version: int) -> dict[str, float]:
    """Loads the trainer's weights into the engine, bucket by bucket, and empties every cache made with the old ones.

    buckets: of (name, tensor) in the layout of released checkpoints, no more than one of them held at a time; names: all that
    must come; version: of the policy. Returns metrics: the tensors, bytes and buckets sent, and the largest
    bucket's bytes. Raises SyncError if a tensor is missing.
    """
    tensors: set[str] = set()
    sizes: list[int] = []
    engine.load_weights(_stream(buckets, tensors, sizes))
    if missing := sorted(names - tensors):
        raise SyncError(f"weight sync {version} left out {len(missing)} of {len(names)} tensors: {', '.join(missing[:8])}")
    engine.reset_caches()
    engine.version = version
    sent = {"tensors": len(tensors), "bytes": sum(sizes), "buckets": len(sizes), "largest_bytes": max(sizes)}
    return {f"sync/{name}": value for name, value in sent.items()}


def push_adapter(engine: Engine, write: Callable[[Path], int], *, version: int) -> dict[str, float]:
    """Loads the trainer's adapters into the engine, in place of those it had, and empties every cache made with them.

    write: writes them into a folder in peft's format and returns their bytes; version: of the policy. Returns metrics.
    """
    with tempfile.TemporaryDirectory() as folder:
        size = write(Path(folder))
        engine.load_adapter(Path(folder))
    engine.reset_caches()
    engine.version = version
    return {"sync/bytes": size}


def _stream(buckets: Iterable[Bucket], tensors: set[str], sizes: list[int]) -> Iterator[tuple[str, Tensor]]:
    for bucket in buckets:
        sizes.append(sum(tensor.nbytes for _, tensor in bucket))
        for name, tensor in bucket:
            tensors.add(name)
            yield name, tensor

"""Weights from the trainer to the engine, and what must be reset with them.

vLLM accepts a stream that lacks tensors and keeps the old ones, with at most a warning; so the names that were streamed are
checked against the full list. A tied head is streamed too, or vLLM restores its old one.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from vlrl.rollout.engine import Engine

Bucket = Sequence[tuple[str, Tensor]]
EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"


class SyncError(RuntimeError):
    """The engine does not hold the trainer's weights."""


def push_weights(engine: Engine, buckets: Iterable[Bucket], *, names: frozenset[str], version: int) -> dict[str, float]:
    """Loads the trainer's weights into the engine, bucket by bucket, and empties every cache made with the old ones.

    buckets: of (name, tensor) in the layout of released checkpoints, no more than one of them held at a time; names: all that
    must come; version: of the policy. Returns as metrics how many tensors, bytes and buckets were handed over, and the largest
    bucket's bytes. SyncError where a tensor is missing.
    """
    tensors: set[str] = set()
    sizes: list[int] = []
    engine.llm.apply_model(_reset_expert_kernels)
    stream = _stream(buckets, tensors, sizes, tied=HEAD not in names)
    engine.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": stream})
    if missing := sorted(names - tensors):
        raise SyncError(f"weight sync {version} left out {len(missing)} of {len(names)} tensors: {', '.join(missing[:8])}")
    engine.reset_caches()
    engine.version = version
    told = {"tensors": len(tensors), "bytes": sum(sizes), "buckets": len(sizes), "largest_bytes": max(sizes)}
    return {f"sync/{name}": value for name, value in told.items()}


def differing_tensors(engine: Engine, weights: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the trainer's tensors that the engine holds otherwise, as far as their layout lets one tell.

    All ranks call it: under ZeRO-3 `weights` gathers one tensor at a time, and no more than one is held.
    """
    return engine.llm.apply_model(lambda model: _differing(model, weights))[0]


def _stream(buckets: Iterable[Bucket], tensors: set[str], sizes: list[int], *, tied: bool) -> Iterator[tuple[str, Tensor]]:
    for bucket in buckets:
        sizes.append(sum(tensor.nbytes for _, tensor in bucket))
        for name, tensor in bucket:
            tensors.add(name)
            yield name, tensor
            if tied and name == EMBEDDING:
                yield HEAD, tensor


def _reset_expert_kernels(model: nn.Module) -> None:
    """On an update vLLM does not repack fused experts, and samples from a mixture of old and new, unless made to."""
    for module in model.modules():
        for attribute in ("quant_method", "base_quant_method"):
            method: Any = getattr(module, attribute, None)
            if getattr(method, "moe_kernel", None) is not None:
                method.moe_kernel = None


def _differing(model: Any, weights: Iterable[tuple[str, Tensor]]) -> list[str]:
    held = dict(model.named_parameters())
    fused = {part: whole for whole, parts in model.packed_modules_mapping.items() for part in parts}
    filled: dict[str, int] = {}
    differing = []
    for name, tensor in weights:
        own = name.replace("model.language_model.", "language_model.model.").replace("model.visual.", "visual.")
        module = own.split(".")[-2]
        own = own.replace(f".{module}.", f".{fused.get(module, module)}.")
        if own not in held:
            continue
        first = filled.get(own, 0) if module in fused else 0
        filled[own] = first + len(tensor)
        mine = held[own][first : first + len(tensor)]
        if mine.shape == tensor.shape and not mine.to(tensor).equal(tensor):
            differing.append(name)
    return differing

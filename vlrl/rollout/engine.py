"""What samples, as the rest of the program sees it: requests in, rollouts out one by one as each ends, new weights by name.

Two engines are behind it: vlrl.rollout.vllm_local, in the training process, and vlrl.rollout.replicas, in processes of their own.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from vlrl.models.processor import EncodedPrompt
from vlrl.types import Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """How a response is drawn. What is trained on is drawn from the whole distribution, without these limits; top_k 0 is none."""

    temperature: float
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One sample to draw: for the prompt at `slot`, the `sample`-th response.

    begun: tokens of the response that were sampled before; the engine reads them after the prompt's, under its own weights.
    max_new_tokens: how many it may sample after them.
    """

    slot: int
    sample: int
    prompt: EncodedPrompt
    max_new_tokens: int
    decoding: Decoding
    seed: int
    begun: tuple[int, ...] = ()


def sampling_seed(*place: int) -> int:
    """A seed from a wide hash of (seed, step, slot, round, sample): neighbouring places share nothing."""
    return int.from_bytes(hashlib.blake2b(repr(place).encode(), digest_size=7).digest())


class Engine(Protocol):
    """The engine of one data-parallel replica; tensor-parallel ranks hold it together and all call the same methods.

    version: the policy version of the weights that it holds; whoever loads weights sets it. -1: another run's weights, so new
    ones must be loaded before anything is sampled. slots: how many responses it samples at a time.
    """

    version: int
    slots: int

    def generate(self, requests: Sequence[Request]) -> Iterator[Rollout]:
        """Yields each request's new tokens as they end, in no fixed order, without text.

        Log-probs are of the distribution sampled from.
        """

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Takes new weights in the layout of released checkpoints; a tied head is not among them.

        Each tensor is read when it comes and may be gone soon after. A missing one keeps its old value: the caller counts them.
        """

    def load_adapter(self, folder: Path) -> None:
        """Takes LoRA adapters from a folder in peft's format, which is read at once; they replace the ones before.

        Only an engine that was started for adapters can.
        """

    def differing_weights(self, weights: Iterable[tuple[str, Tensor]]) -> list[str]:
        """The names of the tensors that the engine holds with other values, as far as its own layout can be compared."""

    def reset_caches(self) -> None:
        """Empties every cache of earlier prompts: they hold old weights, or bits that a resumed run would not have."""

    def sleep(self) -> None:
        """Frees the accelerator's memory for the trainer, if the engine can; it keeps its weights elsewhere until `wake`."""

    def wake(self) -> None:
        """Takes the memory back, with the weights that it had."""

    def close(self) -> None:
        """Ends what it started in other processes."""

"""policy.max_tokens_per_micro_batch: auto. Finds the largest micro-batch whose forward and backward fit in memory, by trying."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from vlrl.models.packing import Pack, PackedGroup, pack_groups
from vlrl.models.processor import EncodedPrompt
from vlrl.run import Run
from vlrl.telemetry.progress import announce
from vlrl.trainer.peak_memory import free_bytes, peak_bytes
from vlrl.trainer.policy import Policy

_SHARE = 0.8  # of the free memory; the rest is for what a step does beside its micro-batches
_ENOUGH = 1.1  # a micro-batch at most this many times as large as the last is not tried
_TOO_MUCH = 1 << 62


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedGroup:
    """A prompt of the run with the most responses that it may get, each of the most tokens."""

    prompt: EncodedPrompt
    group_size: int
    max_new_tokens: int

    @property
    def patches_per_token(self) -> float:
        return int(self.prompt.grid.prod(dim=1).sum()) / len(self.prompt.tokens)

    @property
    def smallest(self) -> int:
        """Tokens of the prompt and one response."""
        return len(self.prompt.tokens) + self.max_new_tokens

    @property
    def largest(self) -> int:
        """Tokens of the whole group."""
        return len(self.prompt.tokens) + self.group_size * self.max_new_tokens


def tokens_that_fit(run: Run, policy: Policy, samples: Sequence[PlannedGroup], *, groups: int) -> int:
    """Finds the most tokens that a micro-batch may have. All ranks call it with the same samples and get the same answer.

    Computes the samples with the most and the fewest patches a token, forward and backward, in larger and larger micro-batches.
    Each size is one that the last predicts to fit, if all its memory grew in proportion; the size returned did fit. groups: those
    of a rank's mini-batch; no micro-batch needs more. The gradients are zeros, and the policy does not change. RuntimeError if
    not even one response fits, or if there is no sample.
    """
    if not samples:
        raise RuntimeError(
            "policy.max_tokens_per_micro_batch: none of the first rows can become a prompt, for the reasons above; set a number"
        )
    most = groups * max(sample.largest for sample in samples)
    by_density = sorted(samples, key=lambda sample: sample.patches_per_token)

    def needed(size: int) -> int:
        packs = [pack_of(sample, size, run.filler) for sample in (by_density[0], by_density[-1])]
        try:
            return max(int(peak_bytes(partial(_compute, policy, pack)) * max(1.0, size / len(pack.tokens))) for pack in packs)
        except torch.OutOfMemoryError:
            return _TOO_MUCH

    size, good = max(sample.smallest for sample in samples), 0
    needed(size)  # allocates the gradients, which stay
    room = run.ranks.min(max(0, int(_SHARE * (free_bytes() - policy.bytes_to_come))))
    while True:
        needs = max(1, int(run.ranks.max(needed(size))))
        if needs <= room:
            good = size
        elif not good:
            raise RuntimeError(
                f"policy.max_tokens_per_micro_batch: memory does not hold the forward and backward of one response and its "
                f"prompt, {size} tokens, in {room / 2**30:.1f} GiB; set gradient_checkpointing: true, a higher zero_stage, "
                "a lower engine.gpu_memory_utilization, or shorter responses"
            )
        # A larger micro-batch has another share of prompts, so the predicted size may not fit; then a smaller one is tried.
        other = min(most, int(size * min(2.0, room / needs) * (1.0 if needs <= room else 0.95)))
        if good == most or (other < _ENOUGH * good and other < most):
            return good
        size = other


def pack_of(sample: PlannedGroup, size: int, filler: EncodedPrompt) -> Pack:
    """Packs the sample's group again and again up to `size` tokens, the last cut to fit; or one response, if that is larger."""
    prompt, response = len(sample.prompt.tokens), [0] * sample.max_new_tokens
    items: list[PackedGroup] = []
    while not items or size >= sample.smallest:
        responses = max(1, min(sample.group_size, (size - prompt) // len(response)))
        items.append((sample.prompt, [response] * responses))
        size -= prompt + responses * len(response)
    return pack_groups(items, filler)


def choose_token_budget(
    run: Run, policy: Policy, samples: Callable[[], Sequence[PlannedGroup]], *, groups: int, phase: str
) -> None:
    """Sets the policy's max_tokens_per_micro_batch if the run file says auto; see `tokens_that_fit`. phase: what it is for."""
    if run.config.policy.max_tokens_per_micro_batch == "auto":
        announce(f"Finding the largest micro-batch for the {phase} that fits in memory", shown=run.ranks.is_first)
        policy.max_tokens_per_micro_batch = tokens_that_fit(run, policy, samples(), groups=groups)
        announce(
            f"Largest micro-batch for the {phase} that fits in memory: {policy.max_tokens_per_micro_batch} tokens",
            shown=run.ranks.is_first,
        )


def _compute(policy: Policy, pack: Pack) -> None:
    policy.backward(policy.forward(pack).zero)

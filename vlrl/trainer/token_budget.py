"""policy.max_tokens_per_micro_batch: auto. Finds the largest micro-batch whose forward and backward fit in memory, by trying."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from vlrl.models.packing import Pack, PackedGroup, pack_groups, prompt_cost
from vlrl.models.processor import EncodedPrompt
from vlrl.run import Run
from vlrl.telemetry.progress import announce
from vlrl.trainer.out_of_memory import WITH_LESS_MEMORY, explain_out_of_memory
from vlrl.trainer.peak_memory import free_bytes, peak_bytes
from vlrl.trainer.policy import Policy

_SHARE = 0.8  # of the free memory; the rest is for what a step does beside its micro-batches
_ENOUGH = 1.1  # a micro-batch at most this many times as large as the last is not tried
_MOST_PER_PATCH = 4.0  # tokens; more is a fault of the measurement, as with a model so small that its memory is noise


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedGroup:
    """A prompt of the run with the most responses that it may get, each of the most tokens."""

    prompt: EncodedPrompt
    group_size: int
    max_new_tokens: int

    @property
    def patches_per_token(self) -> float:
        return len(self.prompt.pixels) / len(self.prompt.tokens)

    def smallest(self, tokens_per_patch: float) -> int:
        """The cost of the prompt and one response."""
        return prompt_cost(self.prompt, tokens_per_patch) + self.max_new_tokens

    def largest(self, tokens_per_patch: float) -> int:
        """The cost of the whole group."""
        return prompt_cost(self.prompt, tokens_per_patch) + self.group_size * self.max_new_tokens


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """What a micro-batch may cost: its tokens, and tokens_per_patch for each patch of its images."""

    tokens: int
    tokens_per_patch: float


def tokens_that_fit(run: Run, policy: Policy, samples: Sequence[PlannedGroup], *, groups: int) -> TokenBudget:
    """Finds the largest budget of a micro-batch. All ranks call it with the same samples and get the same answer.

    Computes two micro-batches of the same cost, forward and backward, larger and larger ones: the sample with the fewest patches
    a token with all its responses, and the one with the most patches with responses of one token. What both need tells how many
    tokens a patch counts as. Each size is one that the last predicts to fit, if all its memory grew in proportion; the budget
    returned did fit for both, and so does a mix of them, since memory grows at most in proportion with tokens and with patches.
    groups: those of a rank's mini-batch; no micro-batch needs more. The gradients are zeros, and the policy does not change.
    RuntimeError if not even one response fits, if memory runs out, or if there is no sample.
    """
    if not samples:
        raise RuntimeError(
            "policy.max_tokens_per_micro_batch: none of the first rows can become a prompt, for the reasons above; set a number"
        )
    by_density = sorted(samples, key=lambda sample: sample.patches_per_token)
    probes = by_density[0], replace(by_density[-1], group_size=1, max_new_tokens=1)
    size, per_patch, good = max(sample.smallest(0.0) for sample in samples), 0.0, None

    def peak(pack: Pack) -> int:
        advice = f"set policy.max_tokens_per_micro_batch to {good.tokens}, which did fit" if good else WITH_LESS_MEMORY
        with explain_out_of_memory(pack, advice):
            return max(1, int(run.ranks.max(peak_bytes(partial(_compute, policy, pack)))))

    for sample in probes:
        peak(pack_of(sample, size, run.filler))  # allocates the gradients, which stay
    room = run.ranks.min(max(0, int(_SHARE * (free_bytes() - policy.bytes_to_come))))
    while True:
        packs = [pack_of(sample, size, run.filler, per_patch) for sample in probes]
        peaks = [peak(pack) for pack in packs]
        fits = max(needs * max(1.0, size / _cost(pack, per_patch)) for needs, pack in zip(peaks, packs, strict=True)) <= room
        if fits:
            good = TokenBudget(size, per_patch)
        measured = _tokens_per_patch(packs, peaks) if by_density[-1].patches_per_token else 0.0
        per_patch = max(per_patch, measured)  # which begins too low: the second micro-batch is then the larger one
        least = max(sample.smallest(per_patch) for sample in samples)
        most = groups * max(sample.largest(per_patch) for sample in samples)
        if not fits and size <= least:
            if good:
                return good
            raise RuntimeError(
                f"policy.max_tokens_per_micro_batch: memory does not hold the forward and backward of one response and its "
                f"prompt, {size} tokens, in {room / 2**30:.1f} GiB; {WITH_LESS_MEMORY}"
            )
        # A larger micro-batch has another share of prompts, so the predicted size may not fit; then a smaller one is tried.
        predicted = min(room / needs * _cost(pack, per_patch) for needs, pack in zip(peaks, packs, strict=True))
        other = max(least, min(most, int(min(2.0 * size, predicted) if fits else min(0.95 * size, predicted))))
        if good and (good.tokens >= most or (other < _ENOUGH * good.tokens and other < most)):
            return good
        size = other


def _tokens_per_patch(packs: Sequence[Pack], peaks: Sequence[int]) -> float:
    """How many tokens a patch counts as, if the first pack needs as much memory for its cost as the second. Rounded up."""
    (tokens, patches), (other_tokens, other_patches) = ((len(pack.tokens), len(pack.pixels)) for pack in packs)
    ratio = peaks[1] / peaks[0]
    found = (ratio * tokens - other_tokens) / max(1.0, other_patches - ratio * patches)
    return math.ceil(100 * min(max(found, 0.0), _MOST_PER_PATCH)) / 100


def _cost(pack: Pack, tokens_per_patch: float) -> float:
    return len(pack.tokens) + tokens_per_patch * len(pack.pixels)


def pack_of(sample: PlannedGroup, size: int, filler: EncodedPrompt, tokens_per_patch: float = 0.0) -> Pack:
    """Packs the sample's group again and again up to a cost of `size`, the last cut to fit; one response, if that is larger."""
    prompt, response = prompt_cost(sample.prompt, tokens_per_patch), [0] * sample.max_new_tokens
    items: list[PackedGroup] = []
    while not items or size >= sample.smallest(tokens_per_patch):
        responses = max(1, min(sample.group_size, (size - prompt) // len(response)))
        items.append((sample.prompt, [response] * responses))
        size -= prompt + responses * len(response)
    return pack_groups(items, filler)


def choose_token_budget(
    run: Run, policy: Policy, samples: Callable[[], Sequence[PlannedGroup]], *, groups: int, phase: str
) -> None:
    """Sets the policy's token budget if the run file says auto; see `tokens_that_fit`. phase: what it is for."""
    if run.config.policy.max_tokens_per_micro_batch == "auto":
        announce(f"Finding the largest micro-batch for the {phase} that fits in memory", shown=run.ranks.is_first)
        found = tokens_that_fit(run, policy, samples(), groups=groups)
        policy.max_tokens_per_micro_batch, policy.tokens_per_patch = found.tokens, found.tokens_per_patch
        patches = f"; a patch of an image counts as {found.tokens_per_patch:g}" if found.tokens_per_patch else ""
        announce(
            f"Largest micro-batch for the {phase} that fits in memory: {found.tokens} tokens{patches}", shown=run.ranks.is_first
        )


def _compute(policy: Policy, pack: Pack) -> None:
    policy.backward(policy.forward(pack).zero)

"""Makes a mini-batch's micro-batches: whole groups, packed to a token budget by a background thread.

Every rank makes the same number of micro-batches, or DeepSpeed's collectives would not meet; a rank that runs short makes empty
ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from vlrl.distributed.prefetch import Prefetched
from vlrl.distributed.ranks import Ranks
from vlrl.models.packed_model import TokenScores
from vlrl.models.packing import Pack, pack_groups, prompt_cost, split_to_budget
from vlrl.models.processor import EncodedPrompt
from vlrl.models.routing_replay import engine_routes
from vlrl.trainer.out_of_memory import explain_out_of_memory, smaller_than
from vlrl.trainer.policy import Policy
from vlrl.types import Group, Prompt, Rollout


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedSample:
    """One response that the loss sees, with its prompt and its advantage."""

    prompt: Prompt
    rollout: Rollout
    advantage: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """One forward and backward: S samples, packed, and what the loss needs of them in the pack's order.

    advantages: [S]; engine_logprobs: [N] of their tokens; engine_routes: [tokens of the pack, layers, experts a token], if the
    engine returned them. old: the policy's scores at the start of the step; None in the first mini-batch, where they are its own.
    """

    samples: tuple[TrainedSample, ...]
    pack: Pack
    advantages: Tensor
    engine_logprobs: Tensor
    engine_routes: Tensor | None = None
    old: TokenScores | None = None

    @property
    def tasks(self) -> list[str]:
        """Each sample's task."""
        return [sample.prompt.task for sample in self.samples]


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniBatch:
    """This rank's micro-batches of one optimizer step; all ranks' trained samples and their tokens, which normalise its loss."""

    micro_batches: Sequence[MicroBatch]
    num_scored: int
    num_tokens: int


def make_minibatch(
    groups: Sequence[Group],
    *,
    filler: EncodedPrompt,
    budget: int,
    tokens_per_patch: float = 0.0,
    keep_zero: bool,
    mask_truncated: bool = False,
    ranks: Ranks,
) -> MiniBatch:
    """Packs this rank's groups into micro-batches of at most `budget` tokens. All ranks call it together.

    tokens_per_patch: how many tokens a patch of an image counts as.

    They hold the scored samples only and, with mask_truncated, only those that ended by themselves. Groups whose advantages are
    all zero are counted but not computed, unless keep_zero (a KL term gives them a gradient). A background thread packs the
    next micro-batches while the first are computed.
    """
    trained = [_trained(group, mask_truncated) for group in groups]
    lengths = [len(sample.rollout.tokens) for samples in trained for sample in samples]
    counts = ranks.sum({"scored": len(lengths), "tokens": sum(lengths)})
    computed = [samples for samples in trained if samples and (keep_zero or any(sample.advantage for sample in samples))]
    sizes = [
        (prompt_cost(samples[0].prompt.encoded, tokens_per_patch), [len(each.rollout.tokens) for each in samples])
        for samples in computed
    ]
    pieces = [[computed[number][part] for number, part in piece] for piece in split_to_budget(sizes, budget)]
    pieces += [[]] * (max(1, int(ranks.max(len(pieces)))) - len(pieces))  # a step without gradients still moves momentum
    return MiniBatch(
        micro_batches=Prefetched(partial(_micro_batch, piece, filler) for piece in pieces),
        num_scored=int(counts["scored"]),
        num_tokens=int(counts["tokens"]),
    )


def with_old_scores(policy: Policy, minibatch: MiniBatch) -> MiniBatch:
    """The mini-batch with each micro-batch's scores under the policy as it is, in the packing of the update."""
    scored = []
    for each in minibatch.micro_batches:
        advice = smaller_than(each.pack, policy.max_tokens_per_micro_batch)
        with policy.routing.replay(policy.routing.by_router(each.engine_routes)), explain_out_of_memory(each.pack, advice):
            scored.append(replace(each, old=policy.logprobs(each.pack)))
    return replace(minibatch, micro_batches=scored)


def _trained(group: Group, mask_truncated: bool) -> list[TrainedSample]:
    return [
        TrainedSample(prompt=group.prompt, rollout=sample.rollout, advantage=sample.advantage)
        for sample in group.samples
        if sample.is_scored and not (mask_truncated and sample.rollout.finish_reason == "length")
    ]


def _micro_batch(groups: Sequence[Sequence[TrainedSample]], filler: EncodedPrompt) -> MicroBatch:
    """Packs groups, each with the samples that this micro-batch has of it."""
    samples = [sample for group in groups for sample in group]
    items = [(group[0].prompt.encoded, [sample.rollout.tokens for sample in group]) for group in groups]
    pack = pack_groups(items, filler)
    has_routes = bool(samples) and samples[0].rollout.routes is not None
    return MicroBatch(
        samples=tuple(samples),
        pack=pack,
        advantages=torch.tensor([sample.advantage for sample in samples], dtype=torch.float32),
        engine_logprobs=torch.tensor([logprob for each in samples for logprob in each.rollout.logprobs], dtype=torch.float32),
        engine_routes=engine_routes(pack, [sample.rollout.routes for sample in samples]) if has_routes else None,
    )

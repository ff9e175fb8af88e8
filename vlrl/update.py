"""A mini-batch's groups to gradients: passes of whole groups, old log-probs, the loss, one optimizer step.

Every rank makes equally many passes, or DeepSpeed's collectives would not meet; a rank that runs short makes empty ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlrl import config as cfg
from vlrl.algorithm.diagnostics import Totals, combine, diagnose
from vlrl.algorithm.gates import Gate
from vlrl.algorithm.loss import policy_loss
from vlrl.model.encode import EncodedPrompt
from vlrl.model.pack import Pack, pack_groups, split_to_budget
from vlrl.policy import Policy, Reference
from vlrl.ranks import Ranks
from vlrl.types import Group, Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """One forward and backward: a pack, its S sequences' advantages, and the engine's [N] log-probs of their tokens."""

    pack: Pack
    advantages: Tensor
    engine_logp: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniBatch:
    """This rank's passes of one optimizer step, and the number of scored rollouts over all ranks that normalises its loss."""

    passes: tuple[Pass, ...]
    num_scored: int


def make_minibatch(
    groups: Sequence[Group],
    encoded: Mapping[int, EncodedPrompt],
    *,
    filler: EncodedPrompt,
    budget: int,
    keep_zero: bool,
    ranks: Ranks,
) -> MiniBatch:
    """This rank's groups as passes of at most `budget` tokens. All ranks call it together.

    Only scored rollouts are in it. Groups whose advantages are all zero are counted but not computed, unless keep_zero (a KL
    term gives them a gradient).
    """
    kept = [(encoded[group.prompt.slot], _scored(group)) for group in groups]
    num_scored = int(ranks.sum({"scored": sum(len(rollouts) for _, rollouts in kept)})["scored"])
    computed = [(prompt, rollouts) for prompt, rollouts in kept if any(a for _, a in rollouts) or (keep_zero and rollouts)]
    sizes = [(len(prompt.tokens), [len(rollout.tokens) for rollout, _ in rollouts]) for prompt, rollouts in computed]
    pieces = [[(computed[n][0], computed[n][1][part]) for n, part in items] for items in split_to_budget(sizes, budget)]
    pieces += [[]] * (max(1, *ranks.gather(len(pieces))) - len(pieces))  # a step without gradients still moves momentum
    return MiniBatch(passes=tuple(_make_pass(piece, filler) for piece in pieces), num_scored=num_scored)


def old_logprobs(policy: Policy, minibatch: MiniBatch) -> list[Tensor]:
    """[N] log-probs of each pass under the policy as it is, in the packing and mode of the update."""
    return [policy.logprobs(each.pack)[0] for each in minibatch.passes]


def update(
    policy: Policy,
    minibatch: MiniBatch,
    old: Sequence[Tensor] | None,
    *,
    gate: Gate,
    settings: cfg.Algorithm,
    reference: Reference | None = None,
) -> tuple[Totals, float | None]:
    """One optimizer step. Returns the mini-batch's diagnostics and, where the ZeRO stage knows it, the gradient norm.

    old: the log-probs of π_old by pass; None in the first mini-batch, whose own log-probs they are. Without any scored rollout
    on any rank nothing is stepped.
    """
    if not minibatch.num_scored:
        return {}, None
    totals = []
    for number, each in enumerate(minibatch.passes):
        logp, entropy = policy.forward(each.pack)
        device, size = logp.device, len(each.engine_logp)
        loss, tokens = policy_loss(
            logp[:size],
            logp[:size].detach() if old is None else old[number][:size],
            each.engine_logp.to(device),
            each.advantages.to(device),
            each.pack.sequence[:size].to(device),
            num_scored=minibatch.num_scored,
            gate=gate,
            engine_weight_cap=settings.engine_weight_cap,
            reference_logp=None if reference is None else reference.logprobs(each.pack)[:size],
            kl_coefficient=settings.kl_coefficient,
        )
        policy.backward(loss + 0.0 * logp.sum())  # the filler's tokens keep every parameter in the graph
        loss_sum = {"policy/loss": (loss.item() * minibatch.num_scored, float(len(each.advantages)))}
        totals.append(diagnose(tokens, entropy[:size], gate) | loss_sum)
    return combine(totals), policy.step()


def _scored(group: Group) -> list:
    """(rollout, advantage) of the group's scored rollouts."""
    triples = zip(group.rollouts, group.scores, group.advantages, strict=True)
    return [(rollout, advantage) for rollout, score, advantage in triples if score.status is Status.OK]


def _make_pass(piece: list, filler: EncodedPrompt) -> Pass:
    members = [member for _, rollouts in piece for member in rollouts]
    return Pass(
        pack=pack_groups([(prompt, [rollout.tokens for rollout, _ in rollouts]) for prompt, rollouts in piece], filler),
        advantages=torch.tensor([advantage for _, advantage in members], dtype=torch.float32),
        engine_logp=torch.tensor([logprob for rollout, _ in members for logprob in rollout.logprobs], dtype=torch.float32),
    )

"""A mini-batch's groups to gradients: passes of whole groups, old log-probs, the loss, one optimizer step.

Every rank makes equally many passes, or DeepSpeed's collectives would not meet; a rank that runs short makes empty ones.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from vlrl import config as cfg
from vlrl.algorithm.diagnostics import Histograms, add_histograms, diagnose, gate_weight, histograms
from vlrl.algorithm.gates import Gate, make_gate
from vlrl.algorithm.loss import LossTokens, policy_loss
from vlrl.distributed.prefetch import Prefetched
from vlrl.distributed.ranks import Ranks
from vlrl.models.packing import Pack, pack_groups, split_to_budget
from vlrl.models.processor import EncodedPrompt
from vlrl.models.routing_replay import Routes, engine_routes
from vlrl.telemetry.clock import Clock
from vlrl.telemetry.metrics import Key, Maximum, Mean, Metrics, Totals, combine
from vlrl.trainer.policy import Policy, Reference
from vlrl.types import Group, Status


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """One forward and backward: a pack of S sequences, and the engine's [N] log-probs of their tokens.

    places: each sequence's slot and sample; tasks, advantages: its task and advantage. engine_routes: [tokens of the pack,
    layers, experts a token], where the engine told them.
    """

    pack: Pack
    places: tuple[tuple[int, int], ...]
    tasks: tuple[str, ...]
    advantages: Tensor
    engine_logp: Tensor
    engine_routes: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniBatch:
    """This rank's passes of one optimizer step; the trained rollouts of all ranks and their tokens, which normalise its loss."""

    passes: Sequence[MicroBatch]
    num_scored: int
    num_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What became of one response's tokens: each one's ratio to the old policy, and the weight that the gate gave it."""

    slot: int
    sample: int
    ratios: list[float]
    weights: list[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateStats:
    """What an optimizer step saw on this rank; step: of the step itself, over all ranks, by metric."""

    totals: Totals = field(default_factory=dict)
    histograms: Histograms = field(default_factory=dict)
    traces: tuple[Trace, ...] = ()
    step: Metrics = field(default_factory=dict)


def numbered(seen: UpdateStats, minibatch: int) -> UpdateStats:
    """What a step's `minibatch`-th update saw, under names that say so; skipped where no rollout of it had a score."""
    totals = seen.totals | {Key("policy/skipped"): Mean(float(not seen.totals))} | {key: Mean(x) for key, x in seen.step.items()}
    return replace(
        seen,
        totals={key._replace(minibatch=minibatch): total for key, total in totals.items()},
        histograms={key._replace(minibatch=minibatch): counts for key, counts in seen.histograms.items()},
    )


@dataclass(frozen=True, slots=True)
class TaskGates:
    """The gate that the run file asks for, with each task's own taus."""

    settings: cfg.AlgorithmConfig
    mixture: Mapping[str, cfg.TaskConfig]

    def gate(self, tasks: Sequence[str]) -> Gate:
        """The gate of sequences of these tasks, [S]."""
        s = self.settings
        pos, neg = self._taus(tasks)
        return make_gate(s.gate, tau_pos=pos, tau_neg=neg, clip_low=s.clip_low, clip_high=s.clip_high)

    def tau(self, tasks: Sequence[str], advantages: Tensor) -> Tensor | None:
        """Each sequence's tau [S], by its advantage's sign; None where the gate has none."""
        if self.settings.gate != "sapo":
            return None
        pos, neg = (advantages.new_tensor(tau) for tau in self._taus(tasks))
        return torch.where(advantages > 0, pos, neg)

    def _taus(self, tasks: Sequence[str]) -> tuple[list[float], list[float]]:
        mixes = [self.mixture[task] for task in tasks]
        return [mix.tau_pos or self.settings.tau_pos for mix in mixes], [mix.tau_neg or self.settings.tau_neg for mix in mixes]


def make_minibatch(
    groups: Sequence[Group],
    encoded: Mapping[int, EncodedPrompt],
    *,
    filler: EncodedPrompt,
    budget: int,
    keep_zero: bool,
    mask_truncated: bool = False,
    ranks: Ranks,
) -> MiniBatch:
    """This rank's groups as passes of at most `budget` tokens. All ranks call it together.

    Only scored rollouts are in it and, with mask_truncated, only those that ended by themselves. Groups whose advantages are all
    zero are counted but not computed, unless keep_zero (a KL term gives them a gradient). The passes are packed in the
    background, while those before them are computed.
    """
    kept = [(group, _trained(group, mask_truncated)) for group in groups]
    lengths = [len(rollout.tokens) for _, rollouts in kept for rollout, _ in rollouts]
    counts = ranks.sum({"scored": len(lengths), "tokens": sum(lengths)})
    computed = [(group, rollouts) for group, rollouts in kept if any(a for _, a in rollouts) or (keep_zero and rollouts)]
    sizes = [
        (len(encoded[group.prompt.slot].tokens), [len(rollout.tokens) for rollout, _ in rollouts]) for group, rollouts in computed
    ]
    pieces = [[(computed[n][0], computed[n][1][part]) for n, part in items] for items in split_to_budget(sizes, budget)]
    pieces += [[]] * (max(1, *ranks.gather(len(pieces))) - len(pieces))  # a step without gradients still moves momentum
    return MiniBatch(
        passes=Prefetched(partial(_make_pass, piece, encoded, filler) for piece in pieces),
        num_scored=int(counts["scored"]),
        num_tokens=int(counts["tokens"]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class OldLogprobs:
    """A pass under the policy at the start of the step: its [N] log-probs, and the experts that each token went to."""

    logp: Tensor
    routes: Routes


def old_logprobs(policy: Policy, minibatch: MiniBatch) -> list[OldLogprobs]:
    """Each pass under the policy as it is, in the packing and mode of the update."""
    found = []
    for each in minibatch.passes:
        with _replayed(policy, _engine_routes(policy, each)):
            found.append(OldLogprobs(logp=policy.logprobs(each.pack)[0], routes=dict(policy.routing.choices)))
    return found


def _engine_routes(policy: Policy, each: MicroBatch) -> Routes | None:
    return None if each.engine_routes is None else policy.routing.of_layers(each.engine_routes)


def _replayed(policy: Policy, routes: Routes | None) -> AbstractContextManager[None]:
    return nullcontext() if routes is None else policy.routing.replay(routes)


def update(
    policy: Policy,
    minibatch: MiniBatch,
    old: Sequence[OldLogprobs] | None,
    *,
    gates: TaskGates,
    longest: int = 1,
    reference: Reference | None = None,
    traced: Collection[int] = (),
    clock: Clock | None = None,
) -> UpdateStats:
    """One optimizer step, and what it saw. traced: the slots whose responses' tokens are told one by one; clock: of its pieces.

    old: π_old by pass; None in the first mini-batch, whose own log-probs they are. Without any scored rollout
    on any rank nothing is stepped. longest: tokens, by which with the scored rollouts a constant average divides.
    """
    if not minibatch.num_scored:
        return UpdateStats()
    settings, clock = gates.settings, clock or Clock()
    totals, counts, traces = [], [], []
    denominators = {"sequence": None, "token": minibatch.num_tokens, "constant": minibatch.num_scored * longest}
    for number in range(len(minibatch.passes)):
        with clock("time/pack"):
            each = minibatch.passes[number]
        before = None if old is None else old[number]
        old_routes = before.routes if before and settings.routing_replay == "r2" else None
        with _replayed(policy, old_routes or _engine_routes(policy, each)):
            with clock("time/forward"):
                logp, entropy = policy.forward(each.pack)
                device, size = logp.device, len(each.engine_logp)
                gate, advantages = gates.gate(each.tasks), each.advantages.to(device)
                loss, tokens = policy_loss(
                    logp[:size],
                    (before.logp if before else logp.detach())[:size],
                    each.engine_logp.to(device),
                    advantages,
                    each.pack.sequence[:size].to(device),
                    num_scored=minibatch.num_scored,
                    gate=gate,
                    tis_cap=settings.tis_cap,
                    tis_floor=settings.tis_floor,
                    drop_outside=settings.tis_mode == "mask",
                    denominator=denominators[settings.loss_aggregation],
                    reference_logp=None if reference is None else reference.logprobs(each.pack)[:size],
                    kl_coefficient=settings.kl_coefficient,
                )
            with clock("time/backward"):
                policy.backward(loss + 0.0 * logp.sum())  # the filler's tokens keep every parameter in the graph
        with clock("time/diagnostics"):
            loss_sum: Totals = {Key("policy/loss"): Mean(loss.item() * minibatch.num_scored, float(len(each.advantages)))}
            taus = gates.tau(each.tasks, advantages)
            totals += [diagnose(tokens, entropy[:size], gate, each.tasks, taus), loss_sum, _routed(policy, before)]
            counts.append(histograms(tokens))
            traces += _traces(each, tokens, gate, traced)
    return UpdateStats(totals=combine(totals), histograms=add_histograms(counts), traces=tuple(traces), step=_step(policy, clock))


def _step(policy: Policy, clock: Clock) -> Metrics:
    """Takes the optimizer step. Returns the gradient's norm, where the ZeRO stage knows it, and how far each part moved."""
    with clock("time/diagnostics"):
        changes = policy.changes()
    with clock("time/optimizer"):
        norm = policy.step()
    with clock("time/diagnostics"):
        told = {Key("policy/change", part=part): share for part, share in changes.since().items()}
    return told if norm is None else told | {Key("policy/grad_norm"): norm}


def _routed(policy: Policy, before: OldLogprobs | None) -> Totals:
    """Of a mixture of experts: the busiest expert's load, and the share of choices that are other than the old policy's."""
    load = policy.routing.load()
    changed = policy.routing.changed(before.routes) if before else None
    totals: Totals = {} if load is None else {Key("router/load_max"): Maximum(load)}
    return totals if changed is None else totals | {Key("router/changed"): Mean(changed)}


def _traces(each: MicroBatch, tokens: LossTokens, gate: Gate, traced: Collection[int]) -> list[Trace]:
    wanted = [number for number, (slot, _) in enumerate(each.places) if slot in traced]
    if not wanted:
        return []
    ratios, weights, sequence = tokens.log_ratio.exp().cpu(), gate_weight(tokens, gate).cpu(), tokens.sequence.cpu()
    return [
        Trace(
            slot=each.places[number][0],
            sample=each.places[number][1],
            ratios=[round(ratio, 4) for ratio in ratios[sequence == number].tolist()],
            weights=[round(weight, 4) for weight in weights[sequence == number].tolist()],
        )
        for number in wanted
    ]


def _trained(group: Group, mask_truncated: bool) -> list:
    """(rollout, advantage) of the group's rollouts that the loss is to see."""
    triples = zip(group.rollouts, group.scores, group.advantages, strict=True)
    return [
        (rollout, advantage)
        for rollout, score, advantage in triples
        if score.status is Status.OK and not (mask_truncated and rollout.finish_reason == "length")
    ]


def _make_pass(piece: list, encoded: Mapping[int, EncodedPrompt], filler: EncodedPrompt) -> MicroBatch:
    members = [member for _, rollouts in piece for member in rollouts]
    packed = [(encoded[group.prompt.slot], [rollout.tokens for rollout, _ in rollouts]) for group, rollouts in piece]
    pack = pack_groups(packed, filler)
    told = [(len(encoded[group.prompt.slot].tokens), [rollout.routes for rollout, _ in rollouts]) for group, rollouts in piece]
    return MicroBatch(
        pack=pack,
        places=tuple((rollout.slot, rollout.sample) for rollout, _ in members),
        tasks=tuple(group.prompt.task for group, rollouts in piece for _ in rollouts),
        advantages=torch.tensor([advantage for _, advantage in members], dtype=torch.float32),
        engine_logp=torch.tensor([logprob for rollout, _ in members for logprob in rollout.logprobs], dtype=torch.float32),
        engine_routes=engine_routes(told, len(pack.tokens)) if members and members[0][0].routes is not None else None,
    )

"""One optimizer step on a mini-batch: the loss of each micro-batch, its gradients, the step, and what to log of them."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vlrl import config as cfg
from vlrl.algorithm.diagnostics import Histograms, add_histograms, diagnose, gate_weight, histograms
from vlrl.algorithm.gates import Gate, make_gate
from vlrl.algorithm.loss import LossTokens, policy_loss
from vlrl.models.packed_model import TokenScores
from vlrl.telemetry.clock import Clock
from vlrl.telemetry.metrics import Key, Maximum, Mean, Metrics, Totals, combine
from vlrl.trainer.micro_batch import MicroBatch, MiniBatch
from vlrl.trainer.out_of_memory import explain_out_of_memory, smaller_than
from vlrl.trainer.policy import Policy
from vlrl.trainer.reference import Reference

MOST_TRACED = 8192  # tokens of a task in a step: about 200 kB of the log


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One response's first tokens in an update: each one's ratio to the old policy, and the weight that the gate gave it."""

    slot: int
    sample: int
    ratios: list[float]
    weights: list[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateStats:
    """Statistics of an optimizer step: of this rank's micro-batches, and (`step`) of the step itself over all ranks."""

    totals: Totals = field(default_factory=dict)
    histograms: Histograms = field(default_factory=dict)
    traces: tuple[Trace, ...] = ()
    step: Metrics = field(default_factory=dict)


def numbered(stats: UpdateStats, minibatch: int) -> UpdateStats:
    """An update's statistics with its mini-batch in their names. policy/skipped: 1 if it had no scored rollout."""
    totals = stats.totals | {Key("policy/skipped"): Mean(float(not stats.totals))}
    totals |= {key: Mean(value) for key, value in stats.step.items()}
    return replace(
        stats,
        totals={key._replace(minibatch=minibatch): total for key, total in totals.items()},
        histograms={key._replace(minibatch=minibatch): counts for key, counts in stats.histograms.items()},
    )


@dataclass(frozen=True, slots=True)
class TaskGates:
    """The run file's gate, with each task's own taus."""

    settings: cfg.AlgorithmConfig
    mixture: Mapping[str, cfg.TaskConfig]

    def gate(self, tasks: Sequence[str]) -> Gate:
        """The gate of sequences of these tasks, [S]."""
        s = self.settings
        pos, neg = self._taus(tasks)
        return make_gate(s.gate, tau_pos=pos, tau_neg=neg, clip_low=s.clip_low, clip_high=s.clip_high)

    def tau(self, tasks: Sequence[str], advantages: Tensor) -> Tensor | None:
        """Each sequence's tau [S], by its advantage's sign; None for a gate without taus."""
        if self.settings.gate != "sapo":
            return None
        pos, neg = (advantages.new_tensor(tau) for tau in self._taus(tasks))
        return torch.where(advantages > 0, pos, neg)

    def _taus(self, tasks: Sequence[str]) -> tuple[list[float], list[float]]:
        mixes = [self.mixture[task] for task in tasks]
        return [mix.tau_pos or self.settings.tau_pos for mix in mixes], [mix.tau_neg or self.settings.tau_neg for mix in mixes]


def update(
    policy: Policy,
    minibatch: MiniBatch,
    *,
    gates: TaskGates,
    longest: int = 1,
    reference: Reference | None = None,
    traced: Collection[tuple[int, int]] = (),
    clock: Clock | None = None,
) -> UpdateStats:
    """One optimizer step. Does nothing if no sample of any rank is scored.

    longest: sampling.max_new_tokens, by which loss_aggregation: constant divides. traced: (slot, sample) of the responses that
    are logged token by token, each up to MOST_TRACED; clock: of the step's pieces.
    """
    if not minibatch.num_scored:
        return UpdateStats()
    settings, clock = gates.settings, clock or Clock()
    totals, counts, traces = [], [], []
    denominators = {"sequence": None, "token": minibatch.num_tokens, "constant": minibatch.num_scored * longest}
    for number in range(len(minibatch.micro_batches)):
        with clock("time/pack"):
            micro = minibatch.micro_batches[number]
        replays_old = micro.old is not None and settings.routing_replay == "r2"
        routes = micro.old.routes if micro.old and replays_old else policy.routing.by_router(micro.engine_routes)
        advice = smaller_than(micro.pack, policy.max_tokens_per_micro_batch)
        with policy.routing.replay(routes or None), explain_out_of_memory(micro.pack, advice):
            with clock("time/forward"):
                scores = policy.forward(micro.pack)
                device = scores.logprobs.device
                gate, advantages = gates.gate(micro.tasks), micro.advantages.to(device)
                engine_logprobs = micro.engine_logprobs.to(device)
                old_logprobs = micro.old.logprobs if micro.old else scores.logprobs
                loss, tokens = policy_loss(
                    scores.logprobs,
                    engine_logprobs if settings.old_policy == "engine" else old_logprobs.detach(),
                    engine_logprobs,
                    advantages,
                    scores.sequence,
                    num_scored=minibatch.num_scored,
                    gate=gate,
                    tis_cap=settings.tis_cap,
                    tis_floor=settings.tis_floor,
                    drop_outside=settings.tis_mode == "mask",
                    denominator=denominators[settings.loss_aggregation],
                    reference_logp=reference.logprobs(micro.pack).logprobs if reference else None,
                    kl_coefficient=settings.kl_coefficient,
                )
            with clock("time/backward"):
                policy.backward(loss + scores.zero)
        with clock("time/diagnostics"):
            loss_sum: Totals = {Key("policy/loss"): Mean(loss.item() * minibatch.num_scored, float(len(micro.samples)))}
            taus = gates.tau(micro.tasks, advantages)
            totals += [diagnose(tokens, scores.entropies, gate, micro.tasks, taus), loss_sum, _routing(policy, micro.old)]
            counts.append(histograms(tokens))
            traces += _traces(micro, tokens, gate, traced)
    return UpdateStats(totals=combine(totals), histograms=add_histograms(counts), traces=tuple(traces), step=_step(policy, clock))


def _step(policy: Policy, clock: Clock) -> Metrics:
    """Takes the optimizer step. Returns the gradient's norm, if the ZeRO stage knows it, and how far each part moved.

    ArithmeticError on all ranks if the norm is not finite: DeepSpeed then leaves the weights alone, and counts the step as taken.
    """
    with clock("time/diagnostics"):
        changes = policy.changes()
    with clock("time/optimizer"):
        norm = policy.step()
    if norm is not None and not math.isfinite(norm):
        raise ArithmeticError(f"the gradient's norm is {norm}; the weights are left as they were before the update")
    with clock("time/diagnostics"):
        metrics = {Key("policy/change", part=part): share for part, share in changes.since().items()}
    return metrics if norm is None else metrics | {Key("policy/grad_norm"): norm}


def _routing(policy: Policy, old: TokenScores | None) -> Totals:
    """For MoE models: the busiest expert's load, and the share of tokens' experts that differ from the old policy's."""
    load = policy.routing.load()
    changed = policy.routing.changed(old.routes) if old else None
    totals: Totals = {} if load is None else {Key("router/load_max"): Maximum(load)}
    return totals if changed is None else totals | {Key("router/changed"): Mean(changed)}


def _traces(micro: MicroBatch, tokens: LossTokens, gate: Gate, traced: Collection[tuple[int, int]]) -> list[Trace]:
    wanted = [number for number, each in enumerate(micro.samples) if (each.rollout.slot, each.rollout.sample) in traced]
    if not wanted:
        return []
    ratios, weights, sequence = tokens.log_ratio.exp().cpu(), gate_weight(tokens, gate).cpu(), tokens.sequence.cpu()
    return [
        Trace(
            slot=micro.samples[number].rollout.slot,
            sample=micro.samples[number].rollout.sample,
            ratios=[round(ratio, 4) for ratio in ratios[sequence == number][:MOST_TRACED].tolist()],
            weights=[round(weight, 4) for weight in weights[sequence == number][:MOST_TRACED].tolist()],
        )
        for number in wanted
    ]

"""What a mini-batch's ratios looked like: how far the policy moved, how much the gate let through, how far the engine is off.

A pack gives totals, which add up over packs and ranks and become metrics at the end. They run over the tokens that the loss
saw, of all tasks and of each. The gate's weight is its slope f'(r), the share of the importance-sampled gradient that a token
keeps: 1 at r = 1; SAPO's is 4p(1-p), GRPO's 1 or 0 (clipped), GSPO's s/r or 0.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from vlrl.algorithm.gates import Gate
from vlrl.algorithm.loss import LossTokens
from vlrl.algorithm.ratios import k3, sequence_mean
from vlrl.telemetry.metrics import EffectiveSampleSize, Key, Kind, Maximum, Mean, Metrics, Totals, combine

Histograms = dict[Key, list[int]]
"""Counts of bins: log_ratio/* between LOG_RATIO_EDGES, log_ratio_var/* between VARIANCE_EDGES, and beyond them."""

_Name = TypeVar("_Name", Key, str)

LOG_RATIO_EDGES = [round(0.002 * math.sinh(0.125 * step), 6) for step in range(-60, 61)]  # from -1.8 to 1.8, finest around 0
VARIANCE_EDGES = [10 ** (fifths / 5) for fifths in range(-40, 6)]  # from 1e-8 to 10

SMALL_STEP, LOW_SPREAD = 0.005, 0.02
"""Up to where the paper's assumptions are taken to hold: A1, the mean of |(r - 1) - log r|; A2, the variance of log r."""


def diagnose(tokens: LossTokens, entropy: Tensor, gate: Gate, tasks: Sequence[str], tau: Tensor | None = None) -> Totals:
    """Totals of one pack. entropy: [N] of the policy's distribution at each token, in nats; tasks: [S].

    tau: [S], for SAPO's gate.
    policy/gate_weight_pos, _neg: the gate's weight by the advantage's sign; policy/gate_weight_below_half: the share of those
    tokens with a weight under 0.5. policy/* and engine/*: how far the policy is from the old policy, and the old policy from
    the engine: ess, ratio_max, abs_log_ratio and kl (k3). Per sequence: policy/log_ratio_var, the variance of
    log r over its tokens, policy/abs_log_s, the size of its mean, and, of SAPO (arXiv 2511.20347, section 4), policy/gate_gap,
    how far the mean of its tokens' gates is from its sequence's gate, policy/gate_bound, the (tau**2 / 4) * variance that
    bounds it, and policy/assumptions_hold, the share of sequences in which steps and spread are small.
    """
    num_sequences = len(tokens.advantages)
    advantage = tokens.advantages[tokens.sequence]
    weight = gate_weight(tokens, gate)
    log_s = sequence_mean(tokens.log_ratio, tokens.sequence, num_sequences)
    variance = sequence_mean((tokens.log_ratio - log_s[tokens.sequence]).square(), tokens.sequence, num_sequences)
    every = torch.ones_like(advantage, dtype=torch.bool)
    by_token: dict[str, tuple[Kind, Tensor, Tensor]] = {
        "policy/gate_weight_pos": (Mean, weight, advantage > 0),
        "policy/gate_weight_neg": (Mean, weight, advantage < 0),
        "policy/gate_weight_below_half": (Mean, weight < 0.5, advantage != 0),
        "policy/entropy": (Mean, entropy, every),
        **{name: (kind, value, every) for name, (kind, value) in _distance("policy", tokens.log_ratio).items()},
        **{name: (kind, value, every) for name, (kind, value) in _distance("engine", tokens.engine_log_ratio).items()},
    }
    by_sequence = {"policy/log_ratio_var": variance, "policy/abs_log_s": log_s.abs()}
    if tau is not None:
        linear = sequence_mean(torch.expm1(tokens.log_ratio) - tokens.log_ratio, tokens.sequence, num_sequences)
        mean_gate = sequence_mean(_sech2(tau[tokens.sequence] * tokens.log_ratio / 2), tokens.sequence, num_sequences)
        by_sequence |= {
            "policy/gate_gap": (mean_gate - _sech2(tau * log_s / 2)).abs(),
            "policy/gate_bound": tau.square() / 4 * variance,
            "policy/assumptions_hold": (linear <= SMALL_STEP) & (variance <= LOW_SPREAD),
        }
    names = list(dict.fromkeys(tasks))
    of_sequence = torch.tensor([names.index(task) for task in tasks], device=advantage.device, dtype=torch.long)
    of_token = of_sequence[tokens.sequence]
    columns = [
        *(_by_task(kind, value, mask, of_token, len(names)) for kind, value, mask in by_token.values()),
        *(
            _by_task(Mean, value, torch.ones_like(value, dtype=torch.bool), of_sequence, len(names))
            for value in by_sequence.values()
        ),
    ]
    table = iter(torch.cat(columns).tolist())  # [fields of all metrics, tasks]: one copy from the device, not one per metric
    kinds = {name: kind for name, (kind, _, _) in by_token.items()} | dict.fromkeys(by_sequence, Mean)
    each: list[Totals] = [
        {Key(name, task=task): kind(*of_task)}
        for (name, kind), of_metric in zip(kinds.items(), columns, strict=True)
        for task, of_task in zip(names, zip(*islice(table, len(of_metric)), strict=True), strict=True)
    ]
    return combine([*each, *({Key(key.name): total for key, total in one.items()} for one in each)])


def histograms(tokens: LossTokens) -> Histograms:
    """How often which log r was seen in a pack, of tokens, and which variance of it, of sequences, by the advantage's sign."""
    num_sequences = len(tokens.advantages)
    log_s = sequence_mean(tokens.log_ratio, tokens.sequence, num_sequences)
    variance = sequence_mean((tokens.log_ratio - log_s[tokens.sequence]).square(), tokens.sequence, num_sequences)
    counts: Histograms = {}
    for sign, of_sequence in (("pos", tokens.advantages > 0), ("neg", tokens.advantages < 0)):
        counts[Key(f"log_ratio/{sign}")] = _counts(tokens.log_ratio[of_sequence[tokens.sequence]], LOG_RATIO_EDGES)
        counts[Key(f"log_ratio_var/{sign}")] = _counts(variance[of_sequence], VARIANCE_EDGES)
    return counts


def add_histograms(several: Iterable[Mapping[_Name, list[int]]]) -> dict[_Name, list[int]]:
    """Bin by bin, the counts of all; by key, or by name as a log has them."""
    added: dict[_Name, list[int]] = {}
    for one in several:
        for name, counts in one.items():
            added[name] = [a + b for a, b in zip(added.get(name, [0] * len(counts)), counts, strict=True)]
    return added


def ratio_quantiles(counts: Histograms) -> Metrics:
    """policy/ratio_p01, _p50, _p99 of each mini-batch, to within a bin."""
    of_tokens = ({key._replace(name="log_ratio"): bins} for key, bins in counts.items() if key.family == "log_ratio")
    return {
        Key(f"policy/ratio_p{percent:02d}", minibatch=key.minibatch): math.exp(quantile(bins, LOG_RATIO_EDGES, percent / 100))
        for key, bins in add_histograms(of_tokens).items()
        for percent in (1, 50, 99)
        if any(bins)
    }


def quantile(counts: Sequence[int], edges: Sequence[float], share: float) -> float:
    """The upper edge of the bin in which `share` of the counts is reached, the last edge at most; nan without any."""
    reached = 0
    for count, edge in zip(counts, [*edges, edges[-1]], strict=True):
        reached += count
        if count and reached >= share * sum(counts):
            return edge
    return math.nan


def gate_weight(tokens: LossTokens, gate: Gate) -> Tensor:
    """f'(r) [N] of each token: what the gate's gradient in log r is of r."""
    with torch.enable_grad():
        log_ratio = tokens.log_ratio.clone().requires_grad_()
        advantage = tokens.advantages.float()[tokens.sequence]
        factor = gate(log_ratio, advantage, tokens.sequence, len(tokens.advantages))
        (slope,) = torch.autograd.grad(factor.sum(), log_ratio)
    return slope / tokens.log_ratio.exp()


def _distance(side: str, log_ratio: Tensor) -> dict[str, tuple[Kind, Tensor]]:
    ratio = log_ratio.exp()
    return {
        f"{side}/ess": (EffectiveSampleSize, ratio),
        f"{side}/ratio_max": (Maximum, ratio),
        f"{side}/abs_log_ratio": (Mean, log_ratio.abs()),
        f"{side}/kl": (Mean, k3(log_ratio)),
    }


def _counts(values: Tensor, edges: Sequence[float]) -> list[int]:
    return torch.bincount(torch.bucketize(values.double().cpu(), torch.tensor(edges)), minlength=len(edges) + 1).tolist()


def _sech2(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x).square()


def _by_task(kind: Kind, value: Tensor, mask: Tensor, task: Tensor, num_tasks: int) -> Tensor:
    """[fields of the accumulator, tasks] of the masked values."""
    zeros = torch.zeros(num_tasks, dtype=torch.float64, device=value.device)
    if kind is Maximum:
        return (zeros - torch.inf).scatter_reduce(0, task, value.double().masked_fill(~mask, -torch.inf), "amax")[None]
    added = [value] if kind is Mean else [value, value.square()]
    sums = [zeros.index_add(0, task, each.double() * mask) for each in added]
    return torch.stack([*sums, zeros.index_add(0, task, mask.double())])

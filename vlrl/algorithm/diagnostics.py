"""What a mini-batch's ratios looked like: how far the policy moved, how much the gate let through, how far the engine is off.

A pack gives totals, which add up over packs and ranks; `means` turns them into metrics at the end. They run over the tokens
that the loss saw. The gate's weight is its slope f'(r), the share of the importance-sampled gradient that a token keeps: 1 at
r = 1; SAPO's is 4p(1-p), GRPO's 1 or 0 (clipped), GSPO's s/r or 0.
"""

from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor

from vlrl.algorithm.gates import Gate
from vlrl.algorithm.loss import LossTokens
from vlrl.algorithm.ratios import k3, sequence_mean

Totals = dict[str, tuple[float, float]]
"""Name -> (sum, count); of a name that ends in `_max`, (largest, 1)."""


def diagnose(tokens: LossTokens, entropy: Tensor, gate: Gate) -> Totals:
    """Totals of one pack. entropy: [N] of the policy's distribution at each token, in nats.

    policy/gate_weight_pos, _neg: the gate's weight by the advantage's sign; policy/gate_weight_below_half: the share of those
    tokens with a weight under 0.5. policy/* and engine/*: how far the policy is from the old policy, and the old policy from
    the engine: ratio, ratio_squared, ratio_max, abs_log_ratio and kl (k3). Per sequence: policy/log_ratio_var, the variance of
    log r over its tokens, and policy/abs_log_s, the size of its mean.
    """
    num_sequences = len(tokens.advantages)
    advantage = tokens.advantages[tokens.sequence]
    weight = gate_weight(tokens, gate)
    log_s = sequence_mean(tokens.log_ratio, tokens.sequence, num_sequences)
    spread = (tokens.log_ratio - log_s[tokens.sequence]).square()
    values = {
        "policy/gate_weight_pos": weight[advantage > 0],
        "policy/gate_weight_neg": weight[advantage < 0],
        "policy/gate_weight_below_half": (weight < 0.5)[advantage != 0],
        "policy/entropy": entropy,
        "policy/log_ratio_var": sequence_mean(spread, tokens.sequence, num_sequences),
        "policy/abs_log_s": log_s.abs(),
        **_distance("policy", tokens.log_ratio),
        **_distance("engine", tokens.engine_log_ratio),
    }
    totals = {name: _total(name, value.double()) for name, value in values.items()}
    sums = torch.stack([total for total, _ in totals.values()]).tolist()  # one copy from the device, not one per name
    return {name: (value, float(count)) for (name, (_, count)), value in zip(totals.items(), sums, strict=True)}


def gate_weight(tokens: LossTokens, gate: Gate) -> Tensor:
    """f'(r) [N] of each token: what the gate's gradient in log r is of r."""
    with torch.enable_grad():
        log_ratio = tokens.log_ratio.clone().requires_grad_()
        advantage = tokens.advantages.float()[tokens.sequence]
        factor = gate(log_ratio, advantage, tokens.sequence, len(tokens.advantages))
        (slope,) = torch.autograd.grad(factor.sum(), log_ratio)
    return slope / tokens.log_ratio.exp()


def combine(packs: Iterable[Totals]) -> Totals:
    """The totals of several packs as one; the order does not matter, and a pack may lack names that others have."""
    return reduce(_add, packs, {})


def means(totals: Totals) -> dict[str, float]:
    """Totals as metrics, without those that no token had part in (no positive advantage, say).

    ratio and ratio_squared become ess, the effective sample size as a share of the tokens: mean(r)**2 / mean(r**2).
    """
    metrics = {name: total / count for name, (total, count) in totals.items() if count}
    for squared in [name for name in metrics if "/ratio_squared" in name]:
        ratio = metrics.pop(squared.replace("ratio_squared", "ratio"))
        metrics[squared.replace("ratio_squared", "ess")] = ratio**2 / metrics.pop(squared)
    return metrics


def _distance(side: str, log_ratio: Tensor) -> dict[str, Tensor]:
    ratio = log_ratio.exp()
    return {
        f"{side}/ratio": ratio,
        f"{side}/ratio_squared": ratio.square(),
        f"{side}/ratio_max": ratio,
        f"{side}/abs_log_ratio": log_ratio.abs(),
        f"{side}/kl": k3(log_ratio),
    }


def _total(name: str, value: Tensor) -> tuple[Tensor, int]:
    if not name.endswith("_max"):
        return value.sum(), len(value)
    return (value.max(), 1) if len(value) else (value.sum(), 0)


def _add(one: Totals, other: Totals) -> Totals:
    added = dict(one)
    for name, (total, count) in other.items():
        mine, my_count = one.get(name, (total, 0.0))
        largest = name.endswith("_max")
        added[name] = (max(mine, total), max(my_count, count)) if largest else (mine * bool(my_count) + total, my_count + count)
    return added

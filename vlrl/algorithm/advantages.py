"""Advantages of a group: how much better each rollout did than the group's scored rollouts on average.

Rollouts that could not be scored are neither rewarded nor punished and leave no trace in the baseline. Plain Python: it runs
once per group and must not need torch.
"""

from collections.abc import Sequence
from statistics import fmean, pstdev, stdev
from typing import Literal

_SPREAD = {"sample": stdev, "population": pstdev}


def group_advantages(
    rewards: Sequence[float],
    scored: Sequence[bool],
    *,
    normalise_std: bool,
    std: Literal["sample", "population"],
    epsilon: float,
) -> tuple[float, ...]:
    """(reward - mean) / (std + epsilon) of each rollout, in the order given; mean and std are over the scored rollouts.

    rewards, scored: [G]; an unscored rollout's reward is ignored and its advantage is 0. std: divisor G - 1 or G; without
    normalise_std only the mean is taken off. All are 0 if fewer than two rollouts are scored or all rewards are equal.

    >>> group_advantages([1, 1, 0, 0], [True] * 4, normalise_std=True, std="population", epsilon=0)
    (1.0, 1.0, -1.0, -1.0)
    >>> group_advantages([3, 1, 9], [True, True, False], normalise_std=False, std="sample", epsilon=0)
    (1.0, -1.0, 0.0)
    """
    known = [float(reward) for reward, is_scored in zip(rewards, scored, strict=True) if is_scored]
    if not known or max(known) == min(known):  # never by a small std: the rounding of equal rewards can pass for a spread
        return (0.0,) * len(rewards)
    mean = fmean(known)
    scale = _SPREAD[std](known) + epsilon if normalise_std else 1.0
    return tuple((reward - mean) / scale if is_scored else 0.0 for reward, is_scored in zip(rewards, scored, strict=True))

"""Advantages of a group: how much better each rollout did than a baseline, the mean of the group's scored rollouts.

The baseline may lean towards the mean of the whole task (arXiv 2511.03710). Then a group whose rewards are all equal has a
gradient too: a solved task that begins to break is held, since its wrong answers count less than the task's mean.

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
    task_mean: float = 0.0,
    shrinkage: float = 0.0,
) -> tuple[float, ...]:
    """(reward - baseline) / (std + epsilon) of each rollout, in the order given.

    rewards, scored: [G]; an unscored rollout's reward is ignored and its advantage is 0. baseline: the mean of the scored
    rewards, and, by the share `shrinkage`, task_mean. std: of the scored rewards, with divisor G - 1 or G; nothing is divided
    without normalise_std, or if all rewards are equal. A lone scored rollout has advantage 0.

    >>> group_advantages([1, 1, 0, 0], [True] * 4, normalise_std=True, std="population", epsilon=0)
    (1.0, 1.0, -1.0, -1.0)
    >>> group_advantages([3, 1, 9], [True, True, False], normalise_std=False, std="sample", epsilon=0)
    (1.0, -1.0, 0.0)
    >>> group_advantages([0, 0], [True] * 2, normalise_std=True, std="sample", epsilon=0, task_mean=0.8, shrinkage=0.25)
    (-0.2, -0.2)
    """
    known = [float(reward) for reward, is_scored in zip(rewards, scored, strict=True) if is_scored]
    if len(known) < 2:
        return (0.0,) * len(rewards)
    # Equal rewards are found by comparison, never by a small std: their rounding can pass for a spread.
    differ = max(known) > min(known)
    mean = fmean(known) if differ else known[0]
    baseline = mean + shrinkage * (task_mean - mean)
    scale = _SPREAD[std](known) + epsilon if normalise_std and differ else 1.0
    return tuple((reward - baseline) / scale if is_scored else 0.0 for reward, is_scored in zip(rewards, scored, strict=True))

"""Computes an evaluation's numbers and their uncertainty: pass@k, means over rows with 95 % intervals, paired differences.

The rows are the statistical sample: another evaluation would have drawn other questions. So the samples of a row count as one
mean.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from vlrl.types import RowRewards

_RIGHT = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over rows, the half width of its 95 % interval (nan for fewer than two rows), and the number of rows."""

    mean: float
    interval: float
    rows: int


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one value per row.

    The interval is Student's t. For values between 0 and 1, it is at least as wide as Wilson's interval: near 0 and 1, the rows
    vary too little to estimate the error, and t would give 0 ± 0 for eighty rows without a reward.

    >>> estimate([0.0, 1.0, 1.0, 0.0])
    Estimate(mean=0.5, interval=0.918693..., rows=4)
    >>> estimate([0.0] * 80)
    Estimate(mean=0.0, interval=0.045818..., rows=80)
    """
    if not values:
        return Estimate(mean=math.nan, interval=math.nan, rows=0)
    half = _student(values)
    if len(values) > 1 and min(values) >= 0 and max(values) <= 1:
        half = max(half, _wilson(values))
    return Estimate(mean=fmean(values), interval=half, rows=len(values))


def _stats() -> Any:
    """scipy.stats, imported at its first use: this saves a second for commands that only read folders."""
    from scipy import stats

    return stats


def _student(values: Sequence[float]) -> float:
    """The half width of the mean's 95 % interval; nan for fewer than two values."""
    if len(values) < 2:
        return math.nan
    return float(_stats().t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def _wilson(values: Sequence[float]) -> float:
    """The distance from the mean to the farther end of Wilson's 95 % interval.

    Wilson's interval is accurate near 0 and 1 (Brown, Cai, DasGupta: Interval Estimation for a Binomial Proportion, Statistical
    Science 16, 2001, section 4). A row's value is a mean of several samples, so n is the number of independent samples with the
    same standard error, mean (1 - mean) / error² (Korn, Graubard: Confidence Intervals for Proportions with Small Expected Number
    of Positive Counts Estimated from Survey Data, Survey Methodology 24, 1998). If all rows are equal, the error is unknown and n
    is the number of rows.
    """
    mean, error = fmean(values), stdev(values) / math.sqrt(len(values))
    n = mean * (1 - mean) / error**2 if error else len(values)
    z = _stats().norm.ppf(0.975)
    centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return float(abs(centre - mean) + half)


def pass_at(k: int, num_samples: int, num_right: int) -> float:
    """The probability that at least one of k samples is right, drawn without replacement (arXiv 2107.03374, eq. 1).

    This is an unbiased estimate of pass@k. Raises ValueError if k exceeds the number of samples.

    >>> pass_at(1, 4, 1), pass_at(2, 4, 1), pass_at(4, 4, 1)
    (0.25, 0.5, 1.0)
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} samples per row, got {num_samples}")
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Two evaluations on the same rows: the mean of second minus first, its 95 % interval, and the p of a paired t-test."""

    mean: float
    interval: float
    rows: int
    p: float

    @property
    def standard_errors(self) -> float:
        """The mean in standard errors, with its sign; 0 if the mean is 0."""
        if not self.mean:
            return 0.0
        return (
            self.mean / (self.interval / _stats().t.ppf(0.975, self.rows - 1))
            if self.interval
            else math.copysign(math.inf, self.mean)
        )


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compares two evaluations row by row, in the same order. Raises ValueError if they have different numbers of rows."""
    pairs = [b - a for a, b in zip(first, second, strict=True)]
    spread = len(pairs) > 1 and stdev(pairs) > 0
    p = float(_stats().ttest_1samp(pairs, 0.0).pvalue) if spread else 1.0 if not any(pairs) else 0.0
    return Difference(mean=fmean(pairs) if pairs else math.nan, interval=_student(pairs), rows=len(pairs), p=p)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """A task's result: samples per row, avg@samples, pass@k for k = 1, 2, 4, ... and samples, and rollouts without a score."""

    samples: int
    average: Estimate
    passes: dict[int, Estimate]
    failed: int


def eval_result(rows: Sequence[RowRewards], samples: int) -> EvalResult:
    """Computes avg@samples over the rows with a score, and pass@k over the rows with at least k scores."""
    scored = [row for row in rows if row.rewards]
    ks = sorted({2**power for power in range(samples.bit_length()) if 2**power <= samples} | {samples})
    return EvalResult(
        samples=samples,
        average=estimate([row.mean for row in scored]),
        passes={
            k: estimate(
                [pass_at(k, len(row.rewards), sum(r >= _RIGHT for r in row.rewards)) for row in rows if len(row.rewards) >= k]
            )
            for k in ks
        },
        failed=sum(row.failed for row in rows),
    )

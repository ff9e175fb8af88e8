"""Numbers of an evaluation with their uncertainty: pass@k, means over rows with 95 % intervals, paired differences.

Rows are the sample: another evaluation would have drawn other questions, so samples of a row count as one mean.
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
    """A mean over rows, the half width of its 95 % interval (nan for fewer than two rows), and the rows."""

    mean: float
    interval: float
    rows: int


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of one value a row.

    Its interval is Student's t. Of values between 0 and 1 it is at least as wide as Wilson's: near 0 and 1 the rows differ too
    little to tell how far off their mean is, and t would say 0 ± 0 of eighty rows without a reward.

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
    """scipy's statistics, imported at their first use: a command that only reads folders answers a second earlier."""
    from scipy import stats

    return stats


def _student(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean, nan for fewer than two values."""
    if len(values) < 2:
        return math.nan
    return float(_stats().t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def _wilson(values: Sequence[float]) -> float:
    """How far Wilson's 95 % interval reaches from the mean to its further end.

    Wilson's interval holds near 0 and 1 (Brown, Cai, DasGupta: Interval Estimation for a Binomial Proportion, Statistical Science
    16, 2001, section 4). A row's value is a mean of several samples, so n is the number of single samples with the same standard
    error, mean (1 - mean) / error² (Korn, Graubard: Confidence Intervals for Proportions with Small Expected Number of Positive
    Counts Estimated from Survey Data, Survey Methodology 24, 1998); rows that are all equal tell no error, and n is their number.
    """
    mean, error = fmean(values), stdev(values) / math.sqrt(len(values))
    n = mean * (1 - mean) / error**2 if error else len(values)
    z = _stats().norm.ppf(0.975)
    centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return float(abs(centre - mean) + half)


def pass_at(k: int, num_samples: int, num_right: int) -> float:
    """The chance that of k samples, drawn from these without putting back, at least one is right (arXiv 2107.03374, eq. 1).

    An unbiased estimate of pass@k. ValueError where k is more than the samples.

    >>> pass_at(1, 4, 1), pass_at(2, 4, 1), pass_at(4, 4, 1)
    (0.25, 0.5, 1.0)
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} samples of a row, there are {num_samples}")
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Of two evaluations of the same rows: the mean of second minus first, its 95 % interval, and a paired t-test's p."""

    mean: float
    interval: float
    rows: int
    p: float

    @property
    def standard_errors(self) -> float:
        """How many standard errors the mean is away from 0, with its sign; 0 where nothing differs."""
        if not self.mean:
            return 0.0
        return (
            self.mean / (self.interval / _stats().t.ppf(0.975, self.rows - 1))
            if self.interval
            else math.copysign(math.inf, self.mean)
        )


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Row by row, in the same order. ValueError for unequal numbers of rows."""
    pairs = [b - a for a, b in zip(first, second, strict=True)]
    spread = len(pairs) > 1 and stdev(pairs) > 0
    p = float(_stats().ttest_1samp(pairs, 0.0).pvalue) if spread else 1.0 if not any(pairs) else 0.0
    return Difference(mean=fmean(pairs) if pairs else math.nan, interval=_student(pairs), rows=len(pairs), p=p)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """Of a task: samples a row, avg@samples, pass@k for k = 1, 2, 4, ... and samples, and rollouts without a verdict."""

    samples: int
    average: Estimate
    passes: dict[int, Estimate]
    failed: int


def eval_result(rows: Sequence[RowRewards], samples: int) -> EvalResult:
    """avg@k and pass@k over the rows that have a verdict; of pass@k, over those with k of them."""
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

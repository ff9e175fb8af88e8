"""avg@k, pass@k and their intervals: against counting by hand, and against three thousand made-up evaluations."""

import doctest
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl import stats
from vlrl.stats import difference, estimate, pass_at


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(stats, optionflags=doctest.ELLIPSIS).failed == 0


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_k_samples_with_a_right_one(right, data):
    k = data.draw(st.integers(1, len(right)))
    drawn = [any(right[number] for number in chosen) for chosen in combinations(range(len(right)), k)]
    assert pass_at(k, len(right), sum(right)) == pytest.approx(sum(drawn) / len(drawn))


@pytest.mark.parametrize("k", [0, 5])
def test_more_passes_than_samples_are_refused(k):
    with pytest.raises(ValueError, match="needs at least"):
        pass_at(k, 4, 2)


@pytest.mark.parametrize(("rows", "samples", "alpha", "beta"), [(30, 16, 1.0, 1.0), (100, 4, 2.0, 2.0), (200, 1, 1.0, 2.0)])
def test_intervals_hold_the_true_mean_in_95_of_100_evaluations(rows, samples, alpha, beta):
    numbers = np.random.default_rng(0)
    rates = numbers.beta(alpha, beta, size=(3000, rows))
    means = numbers.binomial(samples, rates) / samples
    found = [estimate(row.tolist()) for row in means]
    held = np.mean([abs(each.mean - alpha / (alpha + beta)) <= each.interval for each in found])
    assert 0.93 <= held <= 0.97


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_rows_that_are_all_wrong_or_all_right_do_not_tell_the_mean_for_sure(value):
    # Of n rows without a success, a rate of more than about 3 / n would have shown one with 95 % (the rule of three).
    assert 3 / 80 < estimate([value] * 80).interval < 4 / 80


@pytest.mark.parametrize(("rows", "rate"), [(80, 0.01), (80, 0.03), (20, 0.05), (80, 0.98)])
def test_the_interval_of_a_rare_success_holds_the_true_rate_in_95_of_100(rows, rate):
    found = [estimate(row.tolist()) for row in np.random.default_rng(0).binomial(1, rate, size=(2000, rows)).astype(float)]
    assert np.mean([abs(each.mean - rate) <= each.interval for each in found]) >= 0.94


def test_rewards_outside_0_and_1_have_student_s_interval():
    assert estimate([-1.0, 1.0, 1.0, -1.0]).interval == pytest.approx(2 * 0.918693, rel=1e-5)
    assert estimate([2.0, 2.0]).interval == 0


def test_one_row_has_no_interval_and_none_has_no_mean():
    assert math.isnan(estimate([0.5]).interval) and estimate([0.5]).mean == 0.5
    assert math.isnan(estimate([]).mean) and estimate([]).rows == 0


def test_a_paired_difference_is_surer_than_two_means_apart():
    first = [n % 10 / 10 for n in range(50)]
    second = [value + 0.05 + 0.01 * (n % 3) for n, value in enumerate(first)]
    found = difference(first, second)
    assert found.mean == pytest.approx(0.0598)
    assert found.interval < 0.1 * estimate(first).interval
    assert found.p < 1e-6 and found.standard_errors > 10
    back = difference(second, first)
    assert (back.mean, back.standard_errors) == (-found.mean, -found.standard_errors)


def test_equal_rows_do_not_differ_and_rows_that_differ_alike_do_surely():
    assert (difference([1.0, 0.0], [1.0, 0.0]).p, difference([1.0, 0.0], [1.0, 0.0]).standard_errors) == (1.0, 0.0)
    assert difference([1.0, 0.0], [1.5, 0.5]).standard_errors == math.inf


@given(st.integers(0, 2**31))
def test_chance_alone_is_called_a_difference_in_one_of_twenty(seed):
    numbers = np.random.default_rng(seed)
    values = numbers.random((2, 40)).tolist()
    found = difference(*values)
    assert (found.p < 0.05) == (abs(found.mean) > found.interval)

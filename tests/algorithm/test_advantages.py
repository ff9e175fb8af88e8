"""Advantages of a group: their algebra, and the rollouts that have no say."""

import doctest
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.algorithm import advantages
from vlrl.algorithm.advantages import group_advantages

REWARDS = st.lists(st.integers(-20, 20).map(lambda tenths: tenths / 10), min_size=2, max_size=12)
STDS = st.sampled_from(["sample", "population"])


def of(rewards, scored=None, *, normalise_std=True, std="sample", epsilon=0.0):
    scored = [True] * len(rewards) if scored is None else scored
    return group_advantages(rewards, scored, normalise_std=normalise_std, std=std, epsilon=epsilon)


@given(REWARDS, STDS, st.booleans())
def test_advantages_of_a_group_sum_to_zero(rewards, std, normalise_std):
    assert sum(of(rewards, std=std, normalise_std=normalise_std)) == pytest.approx(0, abs=1e-9)


@given(REWARDS, STDS, st.floats(0.1, 10), st.floats(-5, 5))
def test_scaling_and_shifting_the_rewards_changes_nothing(rewards, std, scale, shift):
    moved = [scale * reward + shift for reward in rewards]
    assert of(moved, std=std) == pytest.approx(of(rewards, std=std), abs=1e-9)


@pytest.mark.parametrize(("std", "size"), [("sample", 0.8660254), ("population", 1.0)])
def test_two_right_of_four_by_either_std(std, size):
    assert of([1, 1, 0, 0], std=std) == pytest.approx((size, size, -size, -size))


def test_without_normalisation_an_advantage_is_the_reward_less_the_mean():
    assert of([3, 1, 2], normalise_std=False) == (1.0, -1.0, 0.0)


def test_epsilon_is_added_to_the_std():
    assert of([1, -1], std="population", epsilon=1.0) == pytest.approx((0.5, -0.5))


@pytest.mark.parametrize("rewards", [[0.9] * 8, [0.1] * 3, [1.0], []])
def test_equal_rewards_and_a_group_of_one_have_no_advantage(rewards):
    assert of(rewards) == (0.0,) * len(rewards)


def test_a_small_spread_of_rewards_is_a_spread_all_the_same():
    assert of([1e-9, 0.0], std="population") == pytest.approx((1.0, -1.0))


@given(REWARDS, st.data())
def test_unscored_rollouts_have_no_advantage_and_no_say_in_the_others(rewards, data):
    scored = data.draw(st.lists(st.booleans(), min_size=len(rewards), max_size=len(rewards)))
    both = of(rewards, scored)
    kept = [reward for reward, is_scored in zip(rewards, scored, strict=True) if is_scored]
    assert [value for value, is_scored in zip(both, scored, strict=True) if is_scored] == list(of(kept))
    assert not any(value for value, is_scored in zip(both, scored, strict=True) if not is_scored)


def test_a_lone_scored_rollout_has_no_advantage():
    assert of([1.0, 0.0, 0.0], [True, False, False]) == (0.0, 0.0, 0.0)


def test_the_examples_in_the_docstring_hold():
    assert doctest.testmod(advantages) == (0, 2)


def test_importing_advantages_does_not_load_torch():
    code = "import sys, vlrl.algorithm.advantages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

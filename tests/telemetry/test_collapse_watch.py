"""The collapse watch: it calls what leaves its own history, once, and is quiet over noise and slow change."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.telemetry.collapse_watch import RECENT, Alarm, CollapseWatch
from vlrl.telemetry.metrics import read_metrics


def see(watch: CollapseWatch, step: int, line: dict) -> list[Alarm]:
    """What the watch calls of a log's line."""
    return watch.see(step, read_metrics(line, ["sums", "code"]))


def said_at(watch: CollapseWatch, step: int, metrics: dict) -> list[str]:
    return [call.sentence for call in see(watch, step, metrics)]


def run(values, name: str = "reward/sums", watch: CollapseWatch | None = None, **also) -> list[tuple[int, str]]:
    """(step, sentence) of every call while a metric takes these values, step by step."""
    watch = watch or CollapseWatch()
    return [(step, said) for step, value in enumerate(values, start=1) for said in said_at(watch, step, {name: value, **also})]


def noisy(level: float, noise: float, count: int, seed: int = 0) -> list[float]:
    numbers = random.Random(seed)
    return [level + numbers.gauss(0, noise) for _ in range(count)]


def test_a_reward_that_falls_is_called_once_and_again_after_it_was_back():
    calls = run(noisy(0.8, 0.03, 40) + noisy(0.3, 0.03, 8) + noisy(0.8, 0.03, 40) + noisy(0.2, 0.03, 8))
    assert len(calls) == 2
    (first, said), (second, _) = calls
    assert 41 <= first <= 44 and 89 <= second <= 92
    assert said.startswith("reward of sums fell to 0.3") and "from a median of 0.7" in said


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_noise_is_not_called(level):
    assert run([min(1.0, max(0.0, value)) for value in noisy(level, 0.1, 300)]) == []


def test_slow_change_is_not_called():
    assert run([0.2 + 0.6 * step / 200 for step in range(200)]) == []
    assert run([3.0 * 0.99**step for step in range(300)], "policy/entropy/sums/minibatch_1") == []


@pytest.mark.parametrize(
    ("name", "before", "after", "says"),
    [
        ("policy/entropy/sums/minibatch_1", 0.5, 0.05, "entropy of sums fell to 0.05"),
        ("policy/entropy/minibatch_1", 0.5, 0.05, None),
        ("policy/entropy/sums/minibatch_2", 0.5, 0.05, None),
        ("policy/entropy/sums/minibatch_1", 0.5, 2.0, "entropy of sums rose to 2"),
        ("policy/entropy/sums/minibatch_1", 0.01, 0.1, None),
        ("rollout/tokens/code", 200, 900, "response length of code rose to 900"),
        ("rollout/tokens/code", 200, 40, "response length of code fell to 40"),
        ("time/step", 1, 100, None),
    ],
)
def test_each_signal_has_its_own_bounds(name, before, after, says):
    calls = [said for _, said in run([before] * 20 + [after] * 5, name)]
    assert len(calls) == (says is not None)
    assert all(said.startswith(says) for said in calls)


def test_the_tails_of_the_ratio_are_watched_by_mini_batch():
    watch = CollapseWatch()
    calm = {"policy/ratio_p01/minibatch_2": 0.98, "policy/ratio_p99/minibatch_2": 1.02}
    wild = {"policy/ratio_p01/minibatch_2": 0.3, "policy/ratio_p99/minibatch_2": 3.0}
    assert [see(watch, step, calm) for step in range(20)] == [[]] * 20
    (said,) = [said for step in range(20, 24) for said in said_at(watch, step, wild)]
    assert said.startswith("spread of the ratio (log of 99 % to 1 %) of mini-batch 2 rose to 2.3")


def test_too_short_a_history_is_not_judged():
    assert run([0.9] * 6 + [0.1] * 4) == []


@pytest.mark.parametrize(("reward", "count"), [(0.9, 0), (0.5, 0), (0.4, 1)])
def test_an_entropy_that_falls_is_called_only_where_the_task_s_reward_falls_too(reward, count):
    watch, name = CollapseWatch(), "policy/entropy/sums/minibatch_1"
    lines = [{name: 0.5, "reward/sums": 0.5}] * 20 + [{name: 0.05, "reward/sums": reward}] * 5
    assert len([said for step, line in enumerate(lines) for said in said_at(watch, step, line)]) == count


def group_noise(mean: float, numbers: random.Random) -> float:
    """A step's reward over six groups of eight rollouts; a group's rollouts succeed and fail together more than by chance."""
    chances = [numbers.betavariate(1.5 * mean, 1.5 * (1 - mean)) for _ in range(6)]
    return sum(numbers.random() < chance for chance in chances for _ in range(8)) / 48


@pytest.mark.parametrize(("mean", "most"), [(0.25, 25), (0.5, 25), (0.85, 3)])
def test_of_a_hundred_runs_that_learn_a_task_few_are_called(mean, most):
    numbers = random.Random(0)
    called = [run([group_noise(mean * (0.7 + 0.3 * step / 170), numbers) for step in range(170)]) for _ in range(100)]
    assert sum(map(bool, called)) <= most


@pytest.mark.parametrize(("mean", "fewest"), [(0.5, 85), (0.85, 98)])
def test_of_a_hundred_runs_that_lose_most_of_a_reward_nearly_all_are_called_within_six_steps(mean, fewest):
    numbers = random.Random(0)
    steps = [mean] * 60 + [0.3 * mean] * 6
    called = [run([group_noise(each, numbers) for each in steps]) for _ in range(100)]
    assert sum(any(step > 60 for step, _ in calls) for calls in called) >= fewest


def test_numbers_that_the_log_keeps_as_text_are_passed_over():
    line = {"policy/ratio_p01/minibatch_1": "nan", "policy/ratio_p99/minibatch_1": "nan", "reward/sums": "nan"}
    assert [see(CollapseWatch(), step, line) for step in range(20)] == [[]] * 20


@settings(deadline=None)
@given(st.integers(20, 60), st.integers(1, 20))
def test_the_weights_of_the_step_before_a_sudden_fall_are_the_last_that_may_have_done_well(fall, lasts):
    """The steps up to `fall` are high and those after it low: most of the five steps sampled from the weights were high."""
    watch, calls = CollapseWatch(), []
    for step in range(1, fall + 1 + lasts):
        calls += see(watch, step, {"reward/sums": 0.8 if step <= fall else 0.1, "reward/code": 0.5})
    assert len(calls) == (lasts >= 3)
    assert watch.well_after(["entropy"]) == 0
    if calls:
        (call,) = calls
        assert (call.signal, call.of) == ("reward", "sums")
        assert call.well_after == fall - 3 == watch.well_after(["reward"])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=80))
def test_the_last_step_that_did_well_never_goes_back_nor_comes_within_the_last_five(rewards):
    watch, last = CollapseWatch(), 0
    for step, reward in enumerate(rewards, start=1):
        for call in see(watch, step, {"reward/sums": reward}):
            assert call.well_after <= step - RECENT - 1
        well = watch.well_after(["reward"])
        assert last <= well <= max(0, step - RECENT)
        last = well


def test_a_task_that_is_drawn_now_and_then_did_well_before_the_first_of_its_last_steps():
    watch = CollapseWatch()
    for step in range(0, 100, 7):
        see(watch, step, {"reward/sums": 0.5})
    assert watch.well_after(["reward"]) == 98 - 4 * 7 - 1

"""Metrics: accumulators add up in any order, and a key comes back from its name whatever the tasks are called."""

from collections import Counter
from functools import reduce
from operator import add

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vlrl.telemetry.metrics import (
    EffectiveSampleSize,
    Key,
    Maximum,
    Mean,
    combine,
    name_of,
    read_key,
    read_metrics,
    step_metrics,
    to_metrics,
)

WHOLE = st.integers(-1000, 1000).map(float)  # sums of whole numbers are exact in any order
COUNT = st.integers(0, 5).map(float)
KINDS = {
    "mean": st.builds(lambda total, count: Mean(total * bool(count), count), WHOLE, COUNT),
    "maximum": st.one_of(st.just(Maximum()), st.builds(Maximum, WHOLE)),
    "ess": st.builds(lambda r, n: EffectiveSampleSize(r * bool(n), (r * r + 1) * bool(n), n), WHOLE, COUNT),
}
KEYS = st.sampled_from([Key("loss"), Key("loss", "sums"), Key("loss", minibatch=1), Key("loss", minibatch=2), Key("loss_max")])
TASK = st.one_of(
    st.sampled_from(["sums", "grid_max", "a/b", "minibatch_1", "policy", "entropy", "mean", "failed/a", "pass@2/a", "a", "/"]),
    st.text(min_size=1, max_size=6),
)


def logged(tasks: list[str]) -> list[Key]:
    """A key of each form that a run logs."""
    of_step = [Key(name) for name in ("time/step", "policy/lr", "reward/mean", "eval/mean", "scoring/failed", "sync/bytes")]
    of_task = ["reward", "eval", "eval/failed", "eval/pass@4", "rollout/tokens", "scoring/failed", "scoring/p99_s"]
    of_minibatch = ("policy/ratio_max", "policy/entropy", "engine/kl")
    return [
        *of_step,
        *(Key(name, task) for name in of_task for task in tasks),
        *(Key("parts", task, part="boxed") for task in tasks),
        *(Key(name, task, number) for name in of_minibatch for task in ("", *tasks) for number in (1, 2, 12)),
        *(Key(name, minibatch=number) for name in ("router/load_max", "log_ratio/pos", "policy/ratio_p99") for number in (1, 2)),
        *(Key("policy/change", minibatch=2, part=part) for part in ("vision", "language")),
    ]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_an_accumulator_adds_up_in_any_order(kind, data):
    one, two, three = (data.draw(KINDS[kind]) for _ in range(3))
    assert (one + two) + three == one + (two + three)
    assert one + two == two + one


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_totals_combine_in_any_order_and_grouping(kind, data):
    ranks = data.draw(st.lists(st.dictionaries(KEYS, KINDS[kind]), max_size=5))
    cut = data.draw(st.integers(0, len(ranks)))
    whole = combine(ranks)
    assert combine([combine(ranks[:cut]), combine(ranks[cut:])]) == whole == combine(data.draw(st.permutations(ranks)))


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=20))
def test_each_accumulator_reduces_as_it_says(values):
    count = float(len(values))
    assert reduce(add, map(Mean, values)).value == pytest.approx(sum(values) / count)
    assert reduce(add, map(Maximum, values)).value == max(values)
    ess = reduce(add, [EffectiveSampleSize(value, value**2, 1.0) for value in values]).value
    assert ess == pytest.approx(sum(values) ** 2 / sum(value**2 for value in values) / count) and ess <= 1 + 1e-9


def test_what_measured_nothing_is_no_metric():
    nothing = [Mean(0.0, 0.0), Maximum(), EffectiveSampleSize(0.0, 0.0, 0.0)]
    assert to_metrics({Key(str(number)): each for number, each in enumerate(nothing)}) == {}


def test_a_task_s_name_says_nothing_of_the_reduction():
    keys = [Key("reward", "grid_max"), Key("policy/entropy", "grid_max", 1)]
    ranks = [dict.fromkeys(keys, Mean(value)) for value in (0.0, 1.0)]
    metrics = {name_of(key): value for key, value in to_metrics(combine(ranks)).items()}
    assert metrics == {"reward/grid_max": 0.5, "policy/entropy/grid_max/minibatch_1": 0.5}


@given(st.lists(TASK, min_size=1, max_size=4, unique=True))
@example(["mean", "failed/a", "a"])
def test_a_key_comes_back_from_its_name_whatever_the_tasks_are_called(tasks):
    """Unless two keys have one name: of a task called mean, or of the tasks a and failed/a."""
    keys = logged(tasks)
    shared = Counter(map(name_of, keys))
    assert all(read_key(name_of(key), tasks) == key for key in keys if shared[name_of(key)] == 1)


@given(st.lists(st.text("abc_12", min_size=1, max_size=6).filter("mean".__ne__), min_size=1, max_size=4, unique=True))
def test_plain_tasks_share_no_name_and_all_keys_come_back(tasks):
    metrics = {key: float(number) for number, key in enumerate(logged(tasks))}
    line = {"step": 3, **{name_of(key): value for key, value in metrics.items()}}
    assert read_metrics(line, tasks) == metrics


def test_the_mean_over_tasks_is_read_as_such_even_beside_a_task_of_that_name():
    assert read_metrics({"step": 1, "reward/mean": 0.5}, ["mean"]) == step_metrics({"reward/mean": 0.5})


def test_a_log_s_text_becomes_a_number():
    (value,) = read_metrics({"step": 1, "policy/loss/minibatch_1": "nan"}, []).values()
    assert value != value

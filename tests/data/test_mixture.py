"""The mixture: exact quotas, equal mini-batches, and draws that depend on nothing but (seed, step)."""

from collections import Counter
from fractions import Fraction
from itertools import islice
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.data import mixture as mixture_module
from vlrl.data.mixture import Mixture, quotas

STEPS = 200
AWKWARD = st.dictionaries(
    st.sampled_from("abcdefg"),
    st.one_of(st.integers(1, 1000), st.floats(0.001, 1000), st.sampled_from([0.1, 1 / 3, 1e-6, 1e6])),
    min_size=1,
)


def plan(weights, prompts=8, minibatches=2, size=40, seed=0, steps=STEPS) -> Mixture:
    sizes = dict.fromkeys(weights, size)
    return Mixture(weights, sizes, prompts_per_step=prompts, minibatches=minibatches, seed=seed, steps=steps)


def shares(weights, prompts) -> dict[str, Fraction]:
    exact = {task: Fraction(str(weight)) for task, weight in weights.items()}
    return {task: weight * prompts / sum(exact.values()) for task, weight in exact.items()}


def first_quotas(weights, prompts, steps=STEPS) -> list[dict[str, int]]:
    return list(islice(mixture_module._quotas_of_all_steps(weights, prompts), steps))


@given(AWKWARD, st.integers(1, 97))
@settings(max_examples=60)
def test_every_quota_is_the_floor_or_ceiling_of_its_share_and_every_batch_sums_right(weights, prompts):
    share = shares(weights, prompts)
    for quota in first_quotas(weights, prompts):
        assert sum(quota.values()) == prompts
        assert all(floor(share[task]) <= quota[task] <= ceil(share[task]) for task in weights)


@given(AWKWARD, st.integers(1, 97))
@settings(max_examples=60)
def test_what_a_task_is_owed_stays_within_about_one_prompt(weights, prompts):
    share = shares(weights, prompts)
    given_so_far = Counter()
    for number, quota in enumerate(first_quotas(weights, prompts), start=1):
        given_so_far.update(quota)
        assert all(abs(number * share[task] - given_so_far[task]) < 1.5 for task in weights)


def test_the_share_of_a_long_run_is_exact():
    total = Counter()
    for quota in first_quotas({"a": 0.7, "b": 0.2, "c": 0.1}, 7, steps=1000):
        total.update(quota)
    assert total == {"a": 4900, "b": 1400, "c": 700}


def test_weights_are_read_as_written():
    assert [quotas({"a": 0.1, "b": 0.2}, 3, step) for step in range(3)] == [{"a": 1, "b": 2}] * 3


@given(AWKWARD, st.integers(1, 6), st.integers(1, 8), st.integers(0, 20))
@settings(max_examples=80)
def test_minibatches_are_equal_and_hold_the_ratios_within_one_group(weights, minibatches, prompts_each, step):
    prompts = minibatches * prompts_each
    weights = {task: max(weight, max(weights.values()) / 4) for task, weight in weights.items()}  # each gets a slot by then
    drawn = plan(weights, prompts, minibatches, size=50).draw(step)
    quota = quotas(weights, prompts, step)
    for minibatch in range(minibatches):
        counts = Counter(draw.task for draw in drawn if draw.minibatch == minibatch)
        assert counts.total() == prompts_each
        assert all(abs(counts[task] - quota[task] / minibatches) < 1 for task in weights)


def test_slots_run_through_the_minibatches_in_order():
    drawn = plan({"a": 3, "b": 1}).draw(5)
    assert [draw.slot for draw in drawn] == list(range(8))
    assert [draw.minibatch for draw in drawn] == [0] * 4 + [1] * 4


def test_tasks_are_interleaved_within_a_minibatch():
    drawn = plan({"a": 1, "b": 1}, prompts=16).draw(0)
    assert [draw.task for draw in drawn[:8]] in (["a", "b"] * 4, ["b", "a"] * 4)


def test_the_odd_prompt_of_a_task_moves_from_minibatch_to_minibatch():
    mixture = plan({"a": 3, "b": 3}, prompts=6)
    fuller = [Counter(draw.task for draw in mixture.draw(step) if draw.minibatch == 0)["a"] for step in range(4)]
    assert sorted(fuller[:2]) == [1, 2] and sorted(fuller[2:]) == [1, 2]


@given(AWKWARD, st.lists(st.integers(0, STEPS - 1), max_size=5), st.integers(0, STEPS - 1), st.integers(0, 3))
@settings(max_examples=40)
def test_a_draw_does_not_depend_on_the_draws_before_it(weights, before, step, seed):
    weights = {task: max(weight, max(weights.values()) / 50) for task, weight in weights.items()}
    used, fresh = plan(weights, seed=seed), plan(weights, seed=seed)
    for other in before:
        used.draw(other)
    mixture_module._epoch_order.cache_clear()
    assert used.draw(step) == fresh.draw(step)


def test_the_length_of_a_run_does_not_change_its_first_steps():
    assert plan({"a": 2, "b": 5}, steps=7).draw(6) == plan({"a": 2, "b": 5}, steps=50).draw(6)


def test_every_epoch_reads_every_row_once_in_an_order_of_its_own():
    mixture = plan({"a": 1, "b": 1}, prompts=8, size=12, steps=12)
    read = [draw.index for step in range(12) for draw in mixture.draw(step) if draw.task == "a"]
    epochs = [read[start : start + 12] for start in range(0, 48, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_seed_and_task_each_change_the_order_of_rows():
    def indices(seed: int, task: str) -> list[int]:
        return [draw.index for draw in plan({"a": 1, "b": 1}, seed=seed).draw(0) if draw.task == task]

    assert len({tuple(indices(seed, task)) for seed in (0, 1) for task in "ab"}) == 4


def test_a_draw_is_the_same_in_every_process():
    drawn = plan({"math": 3, "logic": 1}, prompts=4, seed=7).draw(3)
    assert [(draw.task, draw.index, draw.minibatch) for draw in drawn] == [
        ("math", 7, 0),
        ("logic", 4, 0),
        ("math", 34, 1),
        ("math", 31, 1),
    ]


def test_a_task_without_a_single_prompt_is_named():
    with pytest.raises(ValueError, match="'rare' with weight 0.0001 of 1.0001 gets no prompt in 10 steps of 8; raise its weight"):
        plan({"often": 1, "rare": 0.0001}, steps=10)


def test_a_rare_task_gets_its_prompt_in_time():
    assert sum(quotas({"often": 99, "rare": 1}, 1, step)["rare"] for step in range(100)) == 1


def test_a_data_set_smaller_than_its_quota_is_named():
    with pytest.raises(ValueError, match="'a' needs 8 prompts in a step, but its data set has 5 rows"):
        plan({"a": 1}, size=5)


def test_a_batch_that_its_minibatches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="9 prompts per step cannot be split into 2 equal mini-batches; use a multiple of 2"):
        plan({"a": 1}, prompts=9)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_no_positive_number_is_refused(weight):
    with pytest.raises(ValueError, match="'b' has weight"):
        plan({"a": 1, "b": weight})


@given(st.integers(0, STEPS - 1), st.data())
@settings(deadline=None)
def test_a_place_that_is_drawn_again_keeps_its_task_and_gets_a_row_that_the_step_has_not_had(step, data):
    weights = {"a": 3, "b": 1, "c": 0.5}
    mixture = Mixture(weights, dict.fromkeys(weights, 60), prompts_per_step=12, minibatches=2, steps=STEPS, seed=3)
    drawn = mixture.draw(step)
    for turn in range(1, 4):
        slots = data.draw(st.sets(st.sampled_from(range(12))))
        fresh = mixture.redraw(step, drawn, slots)
        assert mixture.redraw(step, drawn, slots) == fresh
        latest = {draw.slot: draw for draw in drawn}
        assert [(d.slot, d.task, d.minibatch) for d in fresh] == [(s, latest[s].task, latest[s].minibatch) for s in sorted(slots)]
        assert all(draw.round == latest[draw.slot].round + 1 <= turn for draw in fresh)
        before, rows = {(d.task, d.index) for d in drawn}, {(d.task, d.index) for d in fresh}
        assert len(rows) == len(fresh) and not rows & before
        drawn = [*drawn, *fresh]


def test_a_task_without_another_row_keeps_the_ones_that_it_has():
    mixture = Mixture({"a": 1}, {"a": 5}, prompts_per_step=4, minibatches=2, steps=1, seed=0)
    assert len(mixture.redraw(0, mixture.draw(0), {0, 1, 3})) == 1

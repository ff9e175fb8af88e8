"""Groups dealt over ranks by their cost: none lost, none doubled, loads even; by one process as far as one can tell."""

from collections import Counter
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from tests.loop import on_two_ranks
from vlrl.rollout.balance import GroupLoad, balance_minibatches, balance_ranks, imbalance

COSTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=40)


def places(costs, ranks):
    return [GroupLoad(slot=slot, rank=slot % ranks, cost=cost) for slot, cost in enumerate(costs)]


def largest_load(costs, owners, ranks):
    return max(sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(ranks))


@given(COSTS, st.integers(1, 8))
def test_every_group_has_one_owner_and_no_load_is_above_the_mean_by_more_than_the_costliest_group(costs, ranks):
    dealt = balance_ranks(places(costs, ranks), ranks)
    assert sorted(dealt) == list(range(len(costs)))
    owners = [dealt[slot] for slot in range(len(costs))]
    assert largest_load(costs, owners, ranks) <= sum(costs) / ranks + max(costs) * (1 - 1 / ranks) + 1e-9


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 3))
def test_no_load_is_more_than_a_third_above_the_least_possible(costs, ranks):
    dealt = balance_ranks(places(costs, ranks), ranks)
    least = min(largest_load(costs, owners, ranks) for owners in product(range(ranks), repeat=len(costs)))
    assert largest_load(costs, [dealt[slot] for slot in range(len(costs))], ranks) <= 4 / 3 * least + 1e-9


@given(COSTS, st.integers(1, 8))
def test_the_deal_is_the_same_from_whichever_side_it_is_seen(costs, ranks):
    assert balance_ranks(places(costs, ranks), ranks) == balance_ranks(places(costs, ranks)[::-1], ranks)


def test_groups_that_are_even_stay_where_they_are():
    assert balance_ranks(places([1.0] * 8, 2), 2) == {slot: slot % 2 for slot in range(8)}


def test_a_skewed_deal_leaves_a_rank_idle_and_an_even_one_does_not():
    skewed = places([9.0 if slot % 2 else 1.0 for slot in range(12)], 2)
    assert imbalance(skewed, {place.slot: place.rank for place in skewed}, 2) > 0.4
    assert imbalance(skewed, balance_ranks(skewed, 2), 2) < 0.01


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.floats(0, 100)), min_size=1, max_size=40))
def test_mini_batches_keep_their_tasks_ratios_and_become_no_less_even(drawn):
    batch = [GroupLoad(slot=n, task=task, minibatch=minibatch, cost=cost) for n, (task, minibatch, cost) in enumerate(drawn)]
    dealt = balance_minibatches(batch, 3)
    assert Counter((each.task, dealt[each.slot]) for each in batch) == Counter((each.task, each.minibatch) for each in batch)
    assert imbalance(batch, dealt, 3) <= imbalance(batch, {each.slot: each.minibatch for each in batch}, 3)


def test_long_answers_that_were_drawn_into_one_mini_batch_are_spread_over_both():
    batch = [GroupLoad(slot=n, task="ab"[n % 2], minibatch=n // 4, cost=9.0 if n < 4 else 1.0) for n in range(8)]
    assert imbalance(batch, balance_minibatches(batch, 2), 2) == 0.0


def test_two_ranks_exchange_groups_with_their_prompts(tiny_dense, pictures):
    printed = on_two_ranks("tests.rollout.balance_on_ranks", tiny_dense, ",".join(pictures))
    assert all("exchanged" in each for each in printed)

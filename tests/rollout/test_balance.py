"""Groups dealt over ranks by their cost: none lost, none doubled, loads even; by one process as far as one can tell."""

import os
import subprocess
import sys
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import PATIENCE_S
from tests.loop import ROOT
from vlrl.rollout.balance import Place, assign, spread, uneven

COSTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=40)


def places(costs, ranks):
    return [Place(slot=slot, rank=slot % ranks, cost=cost) for slot, cost in enumerate(costs)]


@given(COSTS, st.integers(1, 8))
def test_every_group_has_one_owner_and_no_load_is_far_from_the_least_possible(costs, ranks):
    dealt = assign(places(costs, ranks), ranks)
    assert sorted(dealt) == list(range(len(costs)))
    loads = [sum(cost for slot, cost in enumerate(costs) if dealt[slot] == rank) for rank in range(ranks)]
    least = max(max(costs), sum(costs) / ranks)
    assert max(loads) <= (4 / 3) * least + max(costs) / 3 + 1e-9


@given(COSTS, st.integers(1, 8))
def test_the_deal_is_the_same_from_whichever_side_it_is_seen(costs, ranks):
    assert assign(places(costs, ranks), ranks) == assign(places(costs, ranks)[::-1], ranks)


def test_groups_that_are_even_stay_where_they_are():
    assert assign(places([1.0] * 8, 2), 2) == {slot: slot % 2 for slot in range(8)}


def test_a_skewed_deal_leaves_a_rank_idle_and_an_even_one_does_not():
    skewed = places([9.0 if slot % 2 else 1.0 for slot in range(12)], 2)
    assert uneven(skewed, {place.slot: place.rank for place in skewed}, 2) > 0.4
    assert uneven(skewed, assign(skewed, 2), 2) < 0.01


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.floats(0, 100)), min_size=1, max_size=40))
def test_mini_batches_keep_their_tasks_ratios_and_become_no_less_even(drawn):
    batch = [Place(slot=n, task=task, minibatch=minibatch, cost=cost) for n, (task, minibatch, cost) in enumerate(drawn)]
    dealt = spread(batch, 3)
    assert Counter((each.task, dealt[each.slot]) for each in batch) == Counter((each.task, each.minibatch) for each in batch)
    assert uneven(batch, dealt, 3) <= uneven(batch, {each.slot: each.minibatch for each in batch}, 3)


def test_long_answers_that_were_drawn_into_one_mini_batch_are_spread_over_both():
    batch = [Place(slot=n, task="ab"[n % 2], minibatch=n // 4, cost=9.0 if n < 4 else 1.0) for n in range(8)]
    assert uneven(batch, spread(batch, 2), 2) == 0.0


TWO_RANKS = """
import sys
from dataclasses import replace

import torch

from tests.conftest import SMALL_IMAGES
from tests.replay import fixed_groups
from vlrl.model.cost import Cost
from vlrl.model.load import check_model, load_encoder
from vlrl.ranks import join_ranks
from vlrl.rollout.balance import balanced

ranks = join_ranks()
encoder = load_encoder(sys.argv[1], SMALL_IMAGES)
groups, encoded = fixed_groups(encoder, sys.argv[2].split(","))
mine = [group for group in groups if group.prompt.slot % 2 == ranks.rank]
cost = Cost.of(check_model(sys.argv[1]))
own = {group.prompt.slot: encoded[group.prompt.slot] for group in mine}
kept, prompts, told = balanced(mine, own, cost, ranks, minibatches=2)
everywhere = [group for part in ranks.gather(kept) for group in part]
assert sorted(group.prompt.slot for group in everywhere) == list(range(len(groups)))
for group in kept:
    assert replace(group, prompt=groups[group.prompt.slot].prompt) == groups[group.prompt.slot]
    assert torch.equal(prompts[group.prompt.slot].pixels, encoded[group.prompt.slot].pixels)
assert ranks.any(any(group.prompt.slot % 2 != ranks.rank for group in kept)), "nothing moved"
assert told["balance/idle_after"] < told["balance/idle_before"], told
print("exchanged", sorted(group.prompt.slot for group in kept), told)
"""


def test_two_ranks_exchange_groups_with_their_prompts(tiny_dense, pictures, tmp_path):
    (tmp_path / "two_ranks.py").write_text(TWO_RANKS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, tmp_path / "two_ranks.py", tiny_dense, ",".join(pictures)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0 and done.stdout.count("exchanged") == 2, done.stderr

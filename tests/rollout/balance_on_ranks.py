"""What tests/rollout/test_balance.py has on each of two ranks: python -m tests.rollout.balance_on_ranks MODEL PICTURES."""

import sys
from dataclasses import replace

import torch

from tests.conftest import SMALL_IMAGES
from tests.trainer.replay import fixed_groups
from vlrl.distributed.ranks import join_ranks
from vlrl.models.checkpoint_io import check_model, load_encoder
from vlrl.models.flops import Cost
from vlrl.rollout.balance import balance

ranks = join_ranks()
encoder = load_encoder(sys.argv[1], SMALL_IMAGES)
groups = fixed_groups(encoder, sys.argv[2].split(","))
mine = [group for group in groups if group.prompt.slot % 2 == ranks.rank]
cost = Cost.of(check_model(sys.argv[1]))
kept, metrics = balance(mine, cost, ranks, minibatches=2)
everywhere = [group for part in ranks.gather(kept) for group in part]
assert sorted(group.prompt.slot for group in everywhere) == list(range(len(groups)))
for group in kept:
    assert replace(group, prompt=groups[group.prompt.slot].prompt) == groups[group.prompt.slot]
    assert torch.equal(group.prompt.encoded.pixels, groups[group.prompt.slot].prompt.encoded.pixels)
assert ranks.any(any(group.prompt.slot % 2 != ranks.rank for group in kept)), "nothing moved"
assert metrics["balance/idle_after"] < metrics["balance/idle_before"], metrics
print("exchanged", sorted(group.prompt.slot for group in kept), metrics)

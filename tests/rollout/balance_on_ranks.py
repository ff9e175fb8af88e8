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
groups, encoded = fixed_groups(encoder, sys.argv[2].split(","))
mine = [group for group in groups if group.prompt.slot % 2 == ranks.rank]
cost = Cost.of(check_model(sys.argv[1]))
own = {group.prompt.slot: encoded[group.prompt.slot] for group in mine}
kept, prompts, told = balance(mine, own, cost, ranks, minibatches=2)
everywhere = [group for part in ranks.gather(kept) for group in part]
assert sorted(group.prompt.slot for group in everywhere) == list(range(len(groups)))
for group in kept:
    assert replace(group, prompt=groups[group.prompt.slot].prompt) == groups[group.prompt.slot]
    assert torch.equal(prompts[group.prompt.slot].pixels, encoded[group.prompt.slot].pixels)
assert ranks.any(any(group.prompt.slot % 2 != ranks.rank for group in kept)), "nothing moved"
assert told["balance/idle_after"] < told["balance/idle_before"], told
print("exchanged", sorted(group.prompt.slot for group in kept), told)

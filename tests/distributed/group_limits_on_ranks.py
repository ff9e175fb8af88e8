"""What test_ranks.py has on each of two ranks: python -m tests.distributed.group_limits_on_ranks WAIT_S MODEL."""

import sys

import torch
from torch.distributed import distributed_c10d

from vlrl.config import PolicyConfig
from vlrl.distributed.ranks import join_ranks
from vlrl.trainer.policy import Policy

ranks = join_ranks(float(sys.argv[1]))
settings = PolicyConfig(dtype="float32", zero_stage=2)
policy = Policy(settings, sys.argv[2], ranks=ranks, updates=1, temperature=1.0, banned=[])
limits = [group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in distributed_c10d._world.pg_map]
print("limits", sorted(limits))

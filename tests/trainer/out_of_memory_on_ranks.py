"""What tests/trainer/test_out_of_memory.py has on each of two ranks: memory runs out on the second, in a backward of many tokens.

python -m tests.trainer.out_of_memory_on_ranks MODEL PICTURES WHERE (search or update)
"""

import sys
from types import SimpleNamespace

import torch
import typer

from tests.conftest import SMALL_IMAGES
from tests.models.helpers import message
from tests.trainer.replay import GATES, fixed_minibatches, open_policy
from vlrl.cli.shared import sentences
from vlrl.distributed.ranks import join_ranks
from vlrl.models.checkpoint_io import load_encoder
from vlrl.trainer.token_budget import PlannedGroup, tokens_that_fit
from vlrl.trainer.update import update

LIMIT = {"search": 400, "update": 1}
torch.set_num_threads(1)
model, pictures, where = sys.argv[1], sys.argv[2].split(","), sys.argv[3]
ranks = join_ranks()
policy = open_policy(model, ranks, zero_stage=2, max_tokens_per_micro_batch=4096)
forward, backward, tokens = policy.forward, policy.backward, 0


def counted(pack):
    global tokens
    tokens = len(pack.tokens)
    return forward(pack)


def fails(loss):
    if ranks.rank == 1 and tokens > LIMIT[where]:
        raise torch.OutOfMemoryError("CUDA out of memory")
    backward(loss)


policy.forward, policy.backward = counted, fails
try:
    with sentences():
        if where == "update":
            update(policy, fixed_minibatches(model, pictures, ranks)[0], gates=GATES)
        else:
            encoder = load_encoder(model, SMALL_IMAGES)
            chats = [message("What is 1 + 1?"), message("Which digit is this?", pictures[0])]
            samples = [PlannedGroup(prompt=encoder.encode(chat), group_size=4, max_new_tokens=20) for chat in chats]
            tokens_that_fit(SimpleNamespace(ranks=ranks, filler=encoder.filler()), policy, samples, groups=64)
    print("ended well", flush=True)
except typer.Exit as end:
    sys.exit(end.exit_code)

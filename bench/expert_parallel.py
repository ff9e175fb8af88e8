"""An update of a mixture of experts on two ranks or more: all experts on each, sharded by ZeRO-3, or expert-parallel.

    torchrun --nproc_per_node 2 -m bench.expert_parallel --model models/moe [--groups 4] [--repeats 9]

The policies step in turn on the same made-up groups, the ranks together; told are medians and their ratio to ZeRO-3 with the
middle half, and the bytes of parameters that a rank keeps.
"""

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch

from bench.made_up import Case, made_up
from bench.measure import interleaved, ratios
from bench.update import GATES, LR
from vlrl import config as cfg
from vlrl.distributed.ranks import Ranks, join_ranks
from vlrl.models.checkpoint_io import load_encoder
from vlrl.trainer.micro_batch import MiniBatch, make_minibatch
from vlrl.trainer.policy import Policy
from vlrl.trainer.update import update


def stepped(policy: Policy, minibatch: MiniBatch, ranks: Ranks) -> None:
    ranks.barrier()
    update(policy, minibatch, gates=GATES)
    ranks.barrier()


def kept(policy: Policy) -> int:
    """Bytes of the parameters that this rank holds between two steps."""
    parameters = policy.engine.module.parameters()
    return sum(getattr(each, "ds_tensor", each).numel() * each.element_size() for each in parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/moe")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ranks = join_ranks()
    encoder = load_encoder(options.model, cfg.ImagesConfig())
    with tempfile.TemporaryDirectory() as folder:
        case = Case(groups=options.groups, group_size=8, side=256, words=8, lengths=[64])
        groups = made_up(case, encoder, Path(folder))
    mine = [group for group in groups if group.prompt.slot % ranks.size == ranks.rank]
    minibatch = make_minibatch(mine, filler=encoder.filler(), budget=16384, keep_zero=False, ranks=ranks)
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    ways = {
        "ZeRO-1": cfg.PolicyConfig(dtype=dtype, zero_stage=1, lr=LR),
        "ZeRO-3": cfg.PolicyConfig(dtype=dtype, zero_stage=3, lr=LR),
        "expert parallel": cfg.PolicyConfig(dtype=dtype, zero_stage=1, lr=LR, expert_parallel=ranks.size),
    }
    policies = {
        name: Policy(settings, options.model, ranks=ranks, updates=10**6, temperature=1.0, banned=[])
        for name, settings in ways.items()
    }
    works = {name: partial(stepped, policy, minibatch, ranks) for name, policy in policies.items()}
    times = interleaved(works, options.repeats)
    if ranks.is_first:
        for name in ways:
            low, middle, high = ratios(times["ZeRO-3"], times[name])
            print(
                f"{name}: {1000 * statistics.median(times[name]):.0f} ms, {middle:.2f} times as fast as ZeRO-3 "
                f"({low:.2f} to {high:.2f}), {kept(policies[name]) / 1e6:.2f} MB of parameters a rank"
            )


if __name__ == "__main__":
    main()

"""The share of two ranks' time that passes in waiting: groups as they were sampled, and dealt anew by their cost.

    torchrun --nproc_per_node 2 -m bench.balance [--model models/tiny] [--groups 16] [--repeats 5]

Groups of eight, every other one with a picture of 256 tokens, their responses from 8 to 256 tokens; each rank samples every
second group, so that one gets all the pictures. Each repeat computes forward and backward of a rank's groups, after the one deal
and after the other, on one thread a rank; idle is 1 - mean / max of the ranks' seconds. Beside it: what the cost model foresees.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from bench.made_up import Case, made_up
from bench.measure import seconds
from vlrl import config as cfg
from vlrl.distributed.ranks import join_ranks
from vlrl.models.checkpoint_io import check_model, load_encoder, load_model
from vlrl.models.flops import Cost
from vlrl.models.packed_model import PackedModel
from vlrl.models.packing import pack_groups, split_to_budget
from vlrl.rollout.balance import balance
from vlrl.types import Group

LENGTHS = [8, 16, 256, 32, 200, 24, 64, 12, 128]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/tiny")
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ranks = join_ranks()
    encoder = load_encoder(options.model, cfg.ImagesConfig())
    qwen = load_model(options.model, dtype=torch.float32, freeze_vision=False, gradient_checkpointing=False)
    model = PackedModel(qwen, temperature=1.0, banned=[])
    filler = encoder.filler()

    def computed(groups: list[Group]) -> None:
        sizes = [(len(g.prompt.encoded.tokens), [len(each.rollout.tokens) for each in g.samples]) for g in groups]
        for items in split_to_budget(sizes, 16384):
            chosen = [(groups[number], part) for number, part in items]
            packed = [(g.prompt.encoded, [each.rollout.tokens for each in g.samples[part]]) for g, part in chosen]
            model(pack_groups(packed, filler))[0].sum().backward()
            model.zero_grad()

    with tempfile.TemporaryDirectory() as folder:
        halves = [
            Case(groups=options.groups // 2, group_size=8, side=side, words=8, lengths=LENGTHS) for side in (512, 0)
        ]  # pictures for the first rank, text for the second
        groups = made_up(halves[ranks.rank % 2], encoder, Path(folder))
    groups = [_at(group, 2 * group.prompt.slot + ranks.rank) for group in groups]
    moved, foreseen = balance(groups, Cost.of(check_model(options.model)), ranks, minibatches=1)
    works = {"as sampled": lambda: computed(groups), "balanced": lambda: computed(moved)}
    idle: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(options.repeats + 1):
        for name, work in works.items():
            ranks.barrier()
            busy = ranks.gather(seconds(work))
            if repeat:  # the first is a warm-up
                idle[name].append(1 - statistics.fmean(busy) / max(busy))
    if ranks.is_first:
        for name, key in (("as sampled", "balance/idle_before"), ("balanced", "balance/idle_after")):
            shares = idle[name]
            spread = f"({min(shares):.1%} to {max(shares):.1%})"
            print(f"{name}: idle {statistics.median(shares):.1%} {spread}, foreseen {foreseen[key]:.1%}")


def _at(group: Group, slot: int) -> Group:
    """The group at another place of the batch."""
    samples = tuple(replace(each, rollout=replace(each.rollout, slot=slot)) for each in group.samples)
    return replace(group, prompt=replace(group.prompt, slot=slot), samples=samples)


if __name__ == "__main__":
    main()

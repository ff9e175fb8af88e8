"""How an update's time grows: whole groups beside separate responses, one size varied at a time; and over ranks.

    python -m bench.scaling [--model models/tiny] [--axes group prompt response images] [--repeats 5] [--json FILE]
    torchrun --nproc_per_node 2 -m bench.scaling --axes ranks       # the same mini-batch on so many ranks, a thread each

In the middle stand two groups of eight with an image of 256 tokens and responses of 128. Ratios are medians with the middle
half of the interleaved repeats; those of ranks are of separate runs, one after another.
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.made_up import Case, made_up
from bench.measure import interleaved, ratios, write_json
from bench.update import GATES, IMAGE, LR, Bench
from vlrl import config as cfg
from vlrl.distributed.ranks import join_ranks
from vlrl.models.checkpoint_io import load_encoder
from vlrl.trainer.micro_batch import make_minibatch
from vlrl.trainer.policy import Policy
from vlrl.trainer.update import update

MIDDLE = Case(groups=2, group_size=8, side=IMAGE, words=8, lengths=[128])
AXES: dict[str, dict[str, Case]] = {
    "group": {f"G = {size}": replace(MIDDLE, group_size=size) for size in (2, 4, 8, 16, 32)},
    "prompt": {f"{words} words": replace(MIDDLE, side=0, words=words) for words in (8, 64, 256, 512)},
    "response": {f"R = {length}": replace(MIDDLE, lengths=[length]) for length in (16, 64, 128, 256, 512)},
    "images": {f"{count} images": replace(MIDDLE, images=max(1, count), side=IMAGE * (count > 0)) for count in (0, 1, 2, 4)},
}


def grown(axis: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    found = {}
    for name, case in AXES[axis].items():
        options.groups = case.groups
        bench = Bench(case, options, folder, ("separate", "group"))
        times = interleaved({path: bench.step(path) for path in ("separate", "group")}, options.repeats)
        low, middle, high = ratios(times["separate"], times["group"])
        rate = bench.tokens / statistics.median(times["group"])
        tokens = {path: bench.computed[path][0] for path in times}
        print(
            f"| {axis} | {name} | {rate:,.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) "
            f"| {tokens['separate'] / tokens['group']:.2f} |",
            flush=True,
        )
        found[name] = {"tokens": bench.tokens, "computed": tokens, "seconds": times}
    return found


def over_ranks(options: argparse.Namespace, folder: Path) -> None:
    """This rank's half of the same eight groups; the seconds of all."""
    torch.set_num_threads(1)
    ranks = join_ranks()
    encoder = load_encoder(options.model, cfg.ImagesConfig(max_pixels=4 * IMAGE**2))
    groups = made_up(replace(MIDDLE, groups=8), encoder, folder)
    mine = [group for group in groups if group.prompt.slot % ranks.size == ranks.rank]
    tokens = sum(len(g.prompt.encoded.tokens) + len(each.rollout.tokens) for g in groups for each in g.samples)
    minibatch = make_minibatch(mine, filler=encoder.filler(), budget=16384, keep_zero=False, ranks=ranks)
    settings = cfg.PolicyConfig(dtype="float32", zero_stage=1, lr=LR)
    policy = Policy(settings, options.model, ranks=ranks, updates=10**6, temperature=1.0, banned=[])
    times = interleaved({"update": lambda: update(policy, minibatch, gates=GATES)}, options.repeats)["update"]
    if ranks.is_first:
        print(f"ranks: {ranks.size}, a thread each: {tokens / statistics.median(times):,.0f} useful tokens/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/tiny")
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=[*AXES, "ranks"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.max_tokens_per_micro_batch, options.dtype, options.gradient_checkpointing = 16384, "float32", False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.axes == ["ranks"]:
            over_ranks(options, folder)
            return
        torch.set_num_threads(2)
        print("| varied | at | useful tokens/s | as fast as separate | fewer tokens |\n| --- | --- | --- | --- | --- |")
        found = {axis: grown(axis, options, folder) for axis in options.axes}
    write_json(options.json, command=" ".join(sys.argv[1:]), axes=found)


if __name__ == "__main__":
    main()

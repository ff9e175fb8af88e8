"""Forward and backward of a tiny mixture of experts on made-up groups, by transformers' experts backends, interleaved.

    python -m bench.experts --model models/moe [--groups 4] [--repeats 9]

Told are medians and their ratio to eager with the middle half. vlrl takes grouped_mm.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch

from bench.made_up import Case, made_up
from bench.measure import interleaved, ratios
from vlrl import config as cfg
from vlrl.models.checkpoint_io import load_encoder, load_model
from vlrl.models.packed_model import PackedModel
from vlrl.models.packing import pack_groups

BACKENDS = ("eager", "grouped_mm", "batched_mm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/moe")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(2)
    encoder = load_encoder(options.model, cfg.ImagesConfig())
    groups = made_up(Case(groups=options.groups, group_size=8, side=0, words=8, lengths=[32]), encoder, Path())
    pack = pack_groups([(g.prompt.encoded, [each.rollout.tokens for each in g.samples]) for g in groups], encoder.filler())
    qwen = load_model(options.model, dtype=torch.float32, freeze_vision=False, gradient_checkpointing=False)
    model = PackedModel(qwen, temperature=1.0, banned=[])

    def work(backend: str) -> None:
        qwen.set_experts_implementation(backend)
        model(pack)[0].sum().backward()
        model.zero_grad()

    times = interleaved({name: partial(work, name) for name in BACKENDS}, options.repeats)
    print(f"{len(pack.tokens)} tokens")
    for name in BACKENDS:
        low, middle, high = ratios(times[name], times["eager"])
        print(f"{name}: {statistics.median(times[name]):.3f} s, {middle:.2f} of eager ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()

"""What the diagnostics of an update cost: one optimizer step with and without them, interleaved, on made-up rollouts.

    python -m bench.diagnostics --model models/tiny [--prompts 16] [--group 8] [--tokens 32] [--repeats 20]

Prints the medians, their ratio, and the same as a share of a step of a given run: --run runs/cpu.
"""

import argparse
import json
import statistics
from pathlib import Path
from unittest.mock import patch

import torch

import vlrl.update
from bench.made_up import Case, made_up
from bench.measure import seconds
from vlrl import config as cfg
from vlrl.model.load import load_encoder
from vlrl.policy import Policy
from vlrl.ranks import join_ranks
from vlrl.update import TaskGates, make_minibatch, old_logprobs, update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/tiny")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ranks = join_ranks()
    encoder = load_encoder(options.model, cfg.Images())
    case = Case(groups=options.prompts, group_size=options.group, side=0, words=6, lengths=[options.tokens])
    groups, encoded = made_up(case, encoder, Path())
    minibatch = make_minibatch(groups, encoded, filler=encoder.filler(), budget=16384, keep_zero=False, ranks=ranks)
    settings = cfg.Policy(dtype="float32", zero_stage=1, lr=1e-6)
    policy = Policy(settings, options.model, ranks=ranks, updates=1000, temperature=1.0, banned=[])
    gates = TaskGates(cfg.Algorithm(), {f"task{n}": cfg.TaskMix(weight=1, rows=Path("none")) for n in range(5)})
    old = old_logprobs(policy, minibatch)

    def told() -> None:
        update(policy, minibatch, old, gates=gates, traced=range(5))

    def untold() -> None:
        unmeasured = {"diagnose": lambda *_: {}, "histograms": lambda *_: {}, "_step": lambda policy: {"norm": policy.step()}}
        with patch.multiple(vlrl.update, **unmeasured):
            update(policy, minibatch, old, gates=gates)

    for work in (told, untold):
        work()
    pairs = [(seconds(told), seconds(untold)) for _ in range(options.repeats)]
    with_all, without = (statistics.median(times) for times in zip(*pairs, strict=True))
    cost = statistics.median(one - other for one, other in pairs)
    print(
        f"an update of {options.prompts} x {options.group} x {options.tokens} tokens: {1000 * with_all:.1f} ms with diagnostics,"
    )
    print(f"{1000 * without:.1f} ms without; {1000 * cost:.1f} ms are {cost / with_all:.1%} of it")
    if options.run:
        lines = [json.loads(line) for line in (options.run / "metrics.jsonl").read_text().splitlines()]
        step = statistics.median(line["time/step"] for line in lines)
        print(f"two of them are {2 * cost / step:.1%} of {options.run}'s median step of {step:.2f} s")


if __name__ == "__main__":
    main()

"""One optimizer step on the same made-up rollouts by three paths: TRL's, one response after another in a row, and whole groups.

    python -m bench.update [--model models/tiny] [--cases vision-64 vision-128 ...] [--repeats 7] [--trl-batch 16] [--json FILE]
    python -m bench.update --model models/random-2B --cases large-256 --groups 1 --trl-batch 8 --gradient-checkpointing --apart

TRL 1.16: padded batches, the image of a prompt computed for each of its samples, its fused head, SAPO; torch's AdamW. separate:
vlrl's update, each response packed behind its own prompt, so that only padding is saved. group: vlrl's update as it is, prompt
and image once for all responses. vlrl's updates run under DeepSpeed, with their diagnostics. The paths are interleaved; told are
medians of the ratio to TRL with the middle half of the repeats, and useful tokens a second: those of prompts and responses, each
counted for every sample, however often a path computed them. Memory is what a step's peak adds to the resident set before it,
optimizer states included in that, each path in a process of its own. First, losses and gradients are held to TRL's.

Operations are those of the tokens and patches that a path computes, padding among them: three times the forward's of
vlrl.models.flops, two operations a weight and token, 4 * layers * heads * width for each pair of tokens where one sees the other.
What checkpointing computes again does not count. MFU is operations by seconds by the device's best rate. --apart: each path in a
process of its own, one after another, where a device does not hold all three; nothing is compared then.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.made_up import Case, made_up
from bench.measure import Work, in_a_process, interleaved, peak_flops, peak_mb, ratios, write_json
from bench.trl_path import TrlPath
from vlrl import config as cfg
from vlrl.algorithm.loss import policy_loss
from vlrl.distributed.ranks import join_ranks
from vlrl.models.checkpoint_io import check_model, load_encoder
from vlrl.models.flops import Cost
from vlrl.models.processor import Encoder
from vlrl.trainer.micro_batch import MiniBatch, make_minibatch
from vlrl.trainer.policy import Policy
from vlrl.trainer.update import TaskGates, update
from vlrl.types import Group

LR = 1e-6  # the weights hardly move: every repeat does the same work
IMAGE = 512  # pixels a side: 256 image tokens
CASES = {
    **{f"vision-{length}": Case(groups=4, group_size=8, side=IMAGE, words=8, lengths=[length]) for length in (64, 128, 256)},
    "vision-ragged": Case(groups=4, group_size=8, side=IMAGE, words=8, lengths=[16, 256, 64, 128, 32, 200, 96, 48]),
    "text-512": Case(groups=4, group_size=8, side=0, words=6, lengths=[512]),
    # 1,024 image tokens of a prompt of about 1,200
    **{f"large-{length}": Case(groups=4, group_size=8, side=1024, words=56, lengths=[length]) for length in (256, 1024, 4096)},
}
PATHS = ("trl", "separate", "group")
HEADINGS = ("case", "path", "useful tokens/s", "faster than TRL", "tokens computed", "TFLOP", "MFU", "peak, MB", "loss off by")
HEADINGS += ("gradient off by",)
GATES = TaskGates(cfg.AlgorithmConfig(), {f"task{n}": cfg.TaskConfig(weight=1, rows=Path("none")) for n in range(5)})


def one_by_one(groups: list[Group]) -> list[Group]:
    """Each sample as a group of its own behind its prompt, with the advantage that it had."""
    alone: list[Group] = []
    for group in groups:
        for sample in group.samples:
            alone.append(Group(prompt=replace(group.prompt, slot=len(alone)), samples=(sample,)))
    return alone


class Bench:
    """A case, ready to be stepped by each path. computed: the tokens, and operations of a forward and backward, by path."""

    def __init__(self, case: Case, options: argparse.Namespace, folder: Path, paths: Sequence[str] = PATHS):
        encoder = load_encoder(options.model, cfg.ImagesConfig(max_pixels=4 * IMAGE**2))
        groups = made_up(replace(case, groups=options.groups), encoder, folder)
        self.tokens = sum(len(g.prompt.encoded.tokens) + len(each.rollout.tokens) for g in groups for each in g.samples)
        self.ranks = join_ranks()
        self.cost = Cost.of(check_model(options.model))
        self.computed: dict[str, tuple[int, float]] = {}
        self.minibatches: dict[str, MiniBatch] = {}
        self.policies: dict[str, Policy] = {}
        self.trl: TrlPath | None = None
        if "trl" in paths:
            self.trl = TrlPath(
                options.model, dtype=getattr(torch, options.dtype), batch=options.trl_batch, image_token=encoder.image_token,
                device=self.ranks.device.type, taus=(1.0, 1.05), gradient_checkpointing=options.gradient_checkpointing,
            )  # fmt: skip
            self.batches = self.trl.batches(groups)
            self.computed["trl"] = self._padded_work()
        for path in paths:
            if path != "trl":
                work = one_by_one(groups) if path == "separate" else groups
                self._open(path, encoder, work, options)
                self.computed[path] = self._work(work)

    def step(self, path: str) -> Work:
        if path == "trl":
            assert self.trl is not None
            return lambda: self.trl.update(self.batches, lr=LR)
        return lambda: update(self.policies[path], self.minibatches[path], gates=GATES)

    def agreement(self, path: str) -> tuple[float, float]:
        """How far a path's loss and gradient are from TRL's: the loss's difference, and the gradient's over its length."""
        assert self.trl is not None
        loss = self.trl.backward(self.batches)
        theirs = {name: gradient.clone() for name, gradient in self.trl.named_gradients()}
        self.trl.model.zero_grad()
        module = self.policies[path].engine.module
        mine = sum(self._backward(module, self.minibatches[path]))
        ours = {name.removeprefix("qwen."): p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        module.zero_grad()
        alone = [name for name in ours if name not in theirs]  # of text alone the vision tower, which TRL leaves out
        assert ours.keys() >= theirs.keys() and not any(ours.pop(name).any() for name in alone)
        difference, length = (_length(each) for each in ((ours[n] - theirs[n] for n in ours), theirs.values()))
        return abs(mine - loss), difference / length

    def _open(self, path: str, encoder: Encoder, groups: list[Group], options: argparse.Namespace) -> None:
        self.minibatches[path] = make_minibatch(
            groups, filler=encoder.filler(), budget=options.max_tokens_per_micro_batch, keep_zero=False, ranks=self.ranks
        )
        stage = 0 if options.dtype == "float32" else 1
        settings = cfg.PolicyConfig(
            dtype=options.dtype, zero_stage=stage, lr=LR, gradient_checkpointing=options.gradient_checkpointing
        )
        self.policies[path] = Policy(settings, options.model, ranks=self.ranks, updates=10**6, temperature=1.0, banned=[])

    def _work(self, groups: list[Group]) -> tuple[int, float]:
        sizes = [(group.prompt.encoded, [len(each.rollout.tokens) for each in group.samples]) for group in groups]
        tokens = sum(len(prompt.tokens) + sum(lengths) for prompt, lengths in sizes)
        return tokens, 3 * sum(self.cost.group(prompt, lengths) for prompt, lengths in sizes)

    def _padded_work(self) -> tuple[int, float]:
        tokens, forward = 0, 0.0
        for batch in self.batches:
            rows, width = len(batch["prompt_ids"]), batch["prompt_ids"].shape[1] + batch["completion_ids"].shape[1]
            tokens += rows * width
            forward += rows * (self.cost.token * width + self.cost.pair * width**2 / 2)
            forward += self.cost.target * int(batch["completion_mask"].sum())
            forward += self.cost.images(batch["image_grid_thw"]) if "image_grid_thw" in batch else 0.0
        return tokens, 3 * forward

    def _backward(self, module: torch.nn.Module, minibatch: MiniBatch):
        for each in minibatch.micro_batches:
            logp, _ = module(each.pack)
            size = len(each.engine_logprobs)
            loss, _ = policy_loss(
                logp[:size], logp[:size].detach(), logp[:size].detach(), each.advantages, each.pack.sequence[:size],
                num_scored=minibatch.num_scored, gate=GATES.gate(each.tasks), tis_cap=2.0,
            )  # fmt: skip
            loss.backward()
            yield loss.item()


def _length(tensors) -> float:
    return float(sum(tensor.double().square().sum() for tensor in tensors)) ** 0.5


def _alone(name: str, path: str, options: argparse.Namespace) -> dict[str, Any]:
    """One path's seconds and peak, measured in a process of its own."""
    same = ("model", "groups", "trl_batch", "max_tokens_per_micro_batch", "dtype", "repeats")
    arguments = [f"--{key.replace('_', '-')}={getattr(options, key)}" for key in same]
    arguments += ["--gradient-checkpointing"] * options.gradient_checkpointing + ["--apart"] * options.apart
    return json.loads(in_a_process("bench.update", [*arguments, "--cases", name, "--alone", path]))


def measured(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    alone = {path: _alone(name, path, options) for path in options.paths}
    found = {"tokens": alone[options.paths[0]]["tokens"], "peak_mb": {path: of["peak_mb"] for path, of in alone.items()}}
    found["computed"] = {path: of["computed"] for path, of in alone.items()}
    if options.apart:
        return found | {"agreement": {}, "seconds": {path: of["seconds"] for path, of in alone.items()}, "faster": {}}
    bench = Bench(CASES[name], options, folder, options.paths)
    agreement = {path: bench.agreement(path) for path in options.paths if path != "trl"}
    times = interleaved({path: bench.step(path) for path in options.paths}, options.repeats)
    faster = {path: ratios(times["trl"], times[path]) for path in options.paths}
    return found | {"agreement": agreement, "seconds": times, "faster": faster}


def told(name: str, path: str, of: dict[str, Any], rate: float) -> str:
    seconds = statistics.median(of["seconds"][path])
    tokens, operations = of["computed"][path]
    faster = "{1:.2f} ({0:.2f} to {2:.2f})".format(*of["faster"][path]) if path in of["faster"] else ""
    off = [f"{x:.0e}" for x in of["agreement"][path]] if path in of["agreement"] else ["", ""]
    cells = [name, path, f"{of['tokens'] / seconds:,.0f}", faster, f"{tokens:,}", f"{operations / 1e12:.3g}"]
    cells += [f"{operations / seconds / rate:.0%}", f"{of['peak_mb'][path]:,.0f}", *off]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/tiny")
    parser.add_argument(
        "--cases", nargs="+", default=[name for name in CASES if not name.startswith("large")], choices=list(CASES)
    )
    parser.add_argument("--paths", nargs="+", default=list(PATHS), choices=PATHS)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--trl-batch", type=int, default=16)
    parser.add_argument("--max-tokens-per-micro-batch", type=int, default=16384)
    parser.add_argument("--dtype", default="bfloat16" if torch.cuda.is_available() else "float32")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--alone", choices=PATHS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        if options.alone:
            bench = Bench(CASES[options.cases[0]], options, Path(folder), [options.alone])
            step = bench.step(options.alone)
            seconds = interleaved({options.alone: step}, options.repeats if options.apart else 0)[options.alone]
            alone = {"tokens": bench.tokens, "computed": bench.computed[options.alone], "seconds": seconds}
            print(json.dumps(alone | {"peak_mb": peak_mb(step)}))
            return
        found = {name: measured(name, options, Path(folder)) for name in options.cases}
    rate = peak_flops(getattr(torch, options.dtype))
    print(f"best rate: {rate / 1e12:.3g} TFLOP/s")
    print(
        "| case | path | useful tokens/s | faster than TRL | computed | TFLOP | MFU | peak, MB | loss off by | gradient off by |"
    )
    print(f"|{' --- |' * 10}")
    for name, of in found.items():
        for path in options.paths:
            print(told(name, path, of, rate))
    write_json(options.json, command=" ".join(sys.argv[1:]), best_rate=rate, cases=found)


if __name__ == "__main__":
    main()

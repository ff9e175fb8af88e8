"""One optimizer step on the same made-up rollouts by three paths: TRL's, one response after another in a row, and whole groups.

    python -m bench.update [--model models/tiny] [--cases vision-64 vision-128 ...] [--repeats 7] [--trl-batch 16] [--json FILE]

TRL 1.16: padded batches, the image of a prompt computed for each of its samples, its fused head, SAPO; torch's AdamW. separate:
vlrl's update, each response packed behind its own prompt, so that only padding is saved. group: vlrl's update as it is, prompt
and image once for all responses. vlrl's updates run under DeepSpeed, with their diagnostics. The paths are interleaved; told are
medians of the ratio to TRL with the middle half of the repeats, and useful tokens a second: those of prompts and responses, each
counted for every sample, however often a path computed them. Memory is what a step's peak adds to the resident set before it,
optimizer states included in that, each path in a process of its own. First, losses and gradients are held to TRL's.
"""

import argparse
import json
import platform
import statistics
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from bench.made_up import Case, made_up
from bench.measure import Work, in_a_process, interleaved, peak_mb, ratios
from bench.trl_path import TrlPath
from vlrl import config as cfg
from vlrl.algorithm.loss import policy_loss
from vlrl.model.encode import EncodedPrompt, Encoder
from vlrl.model.load import load_encoder
from vlrl.policy import Policy
from vlrl.ranks import join_ranks
from vlrl.types import Group
from vlrl.update import MiniBatch, TaskGates, make_minibatch, update

LR = 1e-6  # the weights hardly move: every repeat does the same work
IMAGE = 512  # pixels a side: 256 image tokens
CASES = {
    **{f"vision-{length}": Case(groups=4, group_size=8, side=IMAGE, words=8, lengths=[length]) for length in (64, 128, 256)},
    "vision-ragged": Case(groups=4, group_size=8, side=IMAGE, words=8, lengths=[16, 256, 64, 128, 32, 200, 96, 48]),
    "text-512": Case(groups=4, group_size=8, side=0, words=6, lengths=[512]),
}
PATHS = ("trl", "separate", "group")
GATES = TaskGates(cfg.Algorithm(), {f"task{n}": cfg.TaskMix(weight=1, rows=Path("none")) for n in range(5)})


def one_by_one(groups: list[Group], encoded: dict[int, EncodedPrompt]) -> tuple[list[Group], dict[int, EncodedPrompt]]:
    """Each rollout as a group of its own behind its prompt, with the advantage that it had."""
    alone, prompts = [], {}
    for group in groups:
        for rollout, score, advantage in zip(group.rollouts, group.scores, group.advantages, strict=True):
            slot = len(alone)
            prompts[slot] = encoded[group.prompt.slot]
            prompt = Group(
                prompt=group.prompt.__class__(slot=slot, task=group.prompt.task, row=group.prompt.row, messages=()),
                rollouts=(rollout,),
                scores=(score,),
                advantages=(advantage,),
            )
            alone.append(prompt)
    return alone, prompts


class Bench:
    """A case, ready to be stepped by each path."""

    def __init__(self, case: Case, options: argparse.Namespace, folder: Path, paths: tuple[str, ...] = PATHS):
        encoder = load_encoder(options.model, cfg.Images(max_pixels=4 * IMAGE**2))
        groups, encoded = made_up(replace(case, groups=options.groups), encoder, folder)
        self.tokens = sum(len(encoded[g.prompt.slot].tokens) + len(r.tokens) for g in groups for r in g.rollouts)
        self.ranks = join_ranks()
        self.minibatches: dict[str, MiniBatch] = {}
        self.policies: dict[str, Policy] = {}
        self.trl: TrlPath | None = None
        if "trl" in paths:
            self.trl = TrlPath(
                options.model, dtype=torch.float32, batch=options.trl_batch, image_token=encoder.image_token,
                device=self.ranks.device.type, taus=(1.0, 1.05),
            )  # fmt: skip
            self.batches = self.trl.batches(groups, encoded)
        for path in paths:
            if path != "trl":
                self._open(path, encoder, *(one_by_one(groups, encoded) if path == "separate" else (groups, encoded)), options)

    def step(self, path: str) -> Work:
        if path == "trl":
            assert self.trl is not None
            return lambda: self.trl.update(self.batches, lr=LR)
        return lambda: update(self.policies[path], self.minibatches[path], None, gates=GATES)

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

    def _open(self, path: str, encoder: Encoder, groups: list[Group], encoded: dict[int, EncodedPrompt], options) -> None:
        self.minibatches[path] = make_minibatch(
            groups, encoded, filler=encoder.filler(), budget=options.tokens_per_pass, keep_zero=False, ranks=self.ranks
        )
        settings = cfg.Policy(dtype="float32", zero_stage=0, lr=LR)
        self.policies[path] = Policy(settings, options.model, ranks=self.ranks, updates=10**6, temperature=1.0, banned=[])

    def _backward(self, module: torch.nn.Module, minibatch: MiniBatch):
        for each in minibatch.passes:
            logp, _ = module(each.pack)
            size = len(each.engine_logp)
            loss, _ = policy_loss(
                logp[:size], logp[:size].detach(), logp[:size].detach(), each.advantages, each.pack.sequence[:size],
                num_scored=minibatch.num_scored, gate=GATES.gate(each.tasks), engine_weight_cap=2.0,
            )  # fmt: skip
            loss.backward()
            yield loss.item()


def _length(tensors) -> float:
    return float(sum(tensor.double().square().sum() for tensor in tensors)) ** 0.5


def _memory(name: str, path: str, options: argparse.Namespace) -> float:
    arguments = ["--model", options.model, "--cases", name, "--memory-of", path, "--groups", str(options.groups)]
    arguments += ["--trl-batch", str(options.trl_batch)]
    return in_a_process("bench.update", [*arguments, "--tokens-per-pass", str(options.tokens_per_pass)])


def measured(name: str, options: argparse.Namespace, folder: Path) -> dict:
    bench = Bench(CASES[name], options, folder)
    agreement = {path: bench.agreement(path) for path in PATHS[1:]}
    works = {path: bench.step(path) for path in PATHS}
    times = interleaved(works, options.repeats)
    return {
        "tokens": bench.tokens,
        "agreement": agreement,
        "seconds": times,
        "faster": {path: ratios(times["trl"], times[path]) for path in PATHS},
        "peak_mb": {path: _memory(name, path, options) for path in PATHS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/tiny")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--trl-batch", type=int, default=16)
    parser.add_argument("--tokens-per-pass", type=int, default=16384)
    parser.add_argument("--memory-of", choices=PATHS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        if options.memory_of:
            bench = Bench(CASES[options.cases[0]], options, Path(folder), (options.memory_of,))
            print(peak_mb(bench.step(options.memory_of)))
            return
        found = {name: measured(name, options, Path(folder)) for name in options.cases}
    print("| case | path | useful tokens/s | faster than TRL | peak, MB | loss off by | gradient off by |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, of in found.items():
        for path in PATHS:
            low, middle, high = of["faster"][path]
            loss, gradient = (f"{x:.0e}" for x in of["agreement"][path]) if path != "trl" else ("", "")
            rate = of["tokens"] / statistics.median(of["seconds"][path])
            print(
                f"| {name} | {path} | {rate:,.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) | {of['peak_mb'][path]:.0f} "
                f"| {loss} | {gradient} |"
            )
    if options.json:
        packages = {name: version(name) for name in ("torch", "transformers", "trl", "deepspeed")}
        options.json.write_text(json.dumps({"machine": platform.processor(), "versions": packages, "cases": found}, indent=1))


if __name__ == "__main__":
    main()

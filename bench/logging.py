"""What a step's log costs: seconds of the trainer's ranks, bytes on the disk, then resuming from it and reading it for a report.

    torchrun --nproc_per_node 2 -m bench.logging [--prompts 256] [--group-size 16] [--tokens 1500] [--steps 3]

Made-up groups, shared out to the ranks: prompts of 400 characters with a picture by reference, responses of four characters a
token; of one group responses are traced token by token. Each step writes its lines as the training loop does.
"""

import argparse
import random
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

from bench.made_up import FIRST_TOKEN, LAST_TOKEN
from bench.measure import seconds
from vlrl import config as cfg
from vlrl.distributed.ranks import join_ranks
from vlrl.models.checkpoint_io import load_encoder
from vlrl.report.read import read_run
from vlrl.run_file import dump_config, parse_config
from vlrl.telemetry.metrics import step_metrics
from vlrl.telemetry.run_log import RunLog
from vlrl.train import write_step
from vlrl.trainer.update import MOST_TRACED, Trace, UpdateStats
from vlrl.types import Group, Prompt, Rollout, Row, Sample, Score

MIXTURE = {"made_up": {"weight": 1, "rows": "none"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/tiny")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ranks = join_ranks()
    encoder = load_encoder(options.model, cfg.ImagesConfig())
    numbers = random.Random(ranks.rank)
    groups = [_group(slot, options, numbers) for slot in range(ranks.rank, options.prompts, ranks.size)]
    batch = SimpleNamespace(sampled=groups, groups=groups)
    updates = [UpdateStats(traces=tuple(_traces(groups[0]) if ranks.is_first else ()))]
    with tempfile.TemporaryDirectory() as name:
        log = RunLog(folder := Path(name)) if ranks.is_first else None
        trainer = SimpleNamespace(run=SimpleNamespace(ranks=ranks, encoder=encoder), log=log)
        took = []
        for step in range(1, options.steps + 1):
            ranks.barrier()
            write = partial(write_step, trainer, step, step_metrics({"reward/mean": 0.5}), {}, batch, updates)
            took.append(ranks.gather(seconds(write)))
        if log:
            for rank in range(ranks.size):
                print(f"rank {rank}: {statistics.median(each[rank] for each in took):.2f} s a step")
            for path in sorted(folder.glob("*.jsonl")):
                print(f"{path.name}: {path.stat().st_size / options.steps / 1e6:.2f} MB a step")
            raw = {"name": "log", "model": "tiny", "steps": options.steps, "prompts_per_step": options.prompts}
            (folder / "config.yaml").write_text(dump_config(parse_config(raw | {"mixture": MIXTURE}, "here")))
            start = time.perf_counter()
            data = read_run(folder)
            shown = sum(map(len, data.groups))
            print(f"read for a report: {time.perf_counter() - start:.2f} s, {shown} of {data.num_rollouts} rollouts kept")
            print(f"cut back by one step: {seconds(lambda: log.truncate(options.steps - 1)):.3f} s")
        ranks.barrier()


def _group(slot: int, options: argparse.Namespace, numbers: random.Random) -> Group:
    content = [{"type": "image", "image": f"data/made_up/train.tar#{512 * slot}+9000"}, {"type": "text", "text": "word " * 80}]
    messages = ({"role": "user", "content": content},)
    prompt = Prompt(slot=slot, task="made_up", row=Row(key=str(slot), answer="42"), messages=messages)
    samples = []
    for number in range(options.group_size):
        tokens = tuple(numbers.choices(range(FIRST_TOKEN, LAST_TOKEN), k=options.tokens))
        rollout = Rollout(
            slot=slot,
            sample=number,
            tokens=tokens,
            logprobs=tuple(numbers.uniform(-1, 0) for _ in tokens),
            text="ab\n " * options.tokens,
            finish_reason="stop",
            weight_versions=(),
        )
        score = Score(reward=float(number % 2), parts={"boxed": 1.0})
        samples.append(Sample(rollout=rollout, score=score, reward=score.reward, advantage=number % 2 - 0.5))
    return Group(prompt=prompt, samples=tuple(samples))


def _traces(group: Group) -> list[Trace]:
    """Of as many responses as a step may trace of a task."""
    values = [len(each.rollout.tokens) * [0.9876] for each in group.samples]
    most = max(1, MOST_TRACED // len(values[0]))
    return [Trace(slot=group.prompt.slot, sample=n, ratios=each, weights=each) for n, each in enumerate(values[:most])]


if __name__ == "__main__":
    main()

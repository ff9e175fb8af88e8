"""A run's log and a group to put into it."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vlrl.config import WandbConfig
from vlrl.telemetry.run_log import RunLog
from vlrl.trackers.background import Background
from vlrl.trackers.wandb_tracker import WandbTracker
from vlrl.types import Group, Prompt, Rollout, Row, Sample, Score, Status


def run_log(folder: Path, wandb: str = "disabled") -> RunLog:
    if wandb == "disabled":
        return RunLog(folder)
    start = partial(WandbTracker, WandbConfig(mode=wandb), folder, name="toy", config={"steps": 3})
    return RunLog(folder, [Background("wandb", start, tables_every=2)])


def strict_lines(path: Path) -> list[dict]:
    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def group(reward: float = 1.0, text: str = "\\boxed{4}", image: str = "shard.tar#512+99", box: Sequence[int] = ()) -> Group:
    content = [{"type": "image", "image": image}]
    meta = {"width": 64, "height": 48, "boxes": [list(box)]} if box else {}
    prompt = Prompt(slot=3, task="digits", row=Row(key="r7", meta=meta), messages=({"role": "user", "content": content},))
    rollout = Rollout(
        slot=3, sample=0, tokens=(5, 6), logprobs=(-0.1, -0.2), weight_versions=(1, 1), finish_reason="stop", text=text
    )
    right, late = Score(reward=reward, parts={"boxed": 1.0}), Score(reward=0.0, status=Status.TIMEOUT, detail="10 s")
    samples = (Sample(rollout=rollout, score=right, reward=reward, advantage=0.5), Sample(rollout=rollout, score=late))
    return Group(prompt=prompt, samples=samples)

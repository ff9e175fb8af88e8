"""Made-up groups for benches: prompts with or without an image of noise, and responses of random tokens, half of them right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vlrl.models.processor import Encoder
from vlrl.types import Group, Prompt, Rollout, Row, Sample, Score

FIRST_TOKEN, LAST_TOKEN = 20, 250  # of the tiny tokenizer, plain bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """side: pixels of each image of a prompt, 0 for text alone; images: of a prompt; words: of its question; lengths: of the
    responses, dealt round to the groups' members."""

    groups: int
    group_size: int
    side: int
    words: int
    lengths: Sequence[int]
    images: int = 1


def made_up(case: Case, encoder: Encoder, folder: Path) -> list[Group]:
    """The case's groups with advantages; the same each time."""
    numbers = torch.Generator().manual_seed(0)
    groups = []
    for slot in range(case.groups):
        names = [folder / f"noise-{case.side}-{slot}-{number}.png" for number in range(case.images if case.side else 0)]
        pictures = [{"type": "image", "image": str(_noise(name, case.side, 1000 * slot + n))} for n, name in enumerate(names)]
        text = {"type": "text", "text": " ".join(f"{slot + n}" for n in range(case.words))}
        encoded = encoder.encode([{"role": "user", "content": [*pictures, text]}])
        samples = []
        for number in range(case.group_size):
            length = case.lengths[(slot * case.group_size + number) % len(case.lengths)]
            reward = float(number % 2)
            rollout, score = _rollout(slot, number, length, numbers), Score(reward=reward)
            samples.append(Sample(rollout=rollout, score=score, reward=reward, advantage=2 * reward - 1))
        size = case.group_size
        prompt = Prompt(slot=slot, task=f"task{slot % 5}", row=Row(), messages=(), group_size=size, encoded=encoded)
        groups.append(Group(prompt=prompt, samples=tuple(samples)))
    return groups


def _rollout(slot: int, sample: int, length: int, numbers: torch.Generator) -> Rollout:
    return Rollout(
        slot=slot,
        sample=sample,
        tokens=tuple(torch.randint(FIRST_TOKEN, LAST_TOKEN, (length,), generator=numbers).tolist()),
        logprobs=(-5.5,) * length,
        text="",
        finish_reason="stop",
        weight_versions=(),
    )


def _noise(path: Path, side: int, seed: int) -> Path:
    if not path.exists():
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)
    return path

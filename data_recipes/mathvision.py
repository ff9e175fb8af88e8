"""mathvision (vision): mathematics contest problems with a picture; options or an expression. For evaluation."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import records
from vlrl.data.shards import NewRow

SOURCE = "MathLLMs/MathVision"
LICENCE = "MIT"
VERSION = 1
TRAIN, EVAL = 0, None
TASK = "geometry"
MARKER = re.compile(r"\s*<image\d+>\s*")


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="test")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    return NewRow(
        question=MARKER.sub(" ", raw["question"]).strip(),
        answer=raw["answer"].strip(),
        images=(raw["decoded_image"],),
        meta={"options": list(raw["options"]), "subject": raw["subject"], "level": raw["level"]},
    )

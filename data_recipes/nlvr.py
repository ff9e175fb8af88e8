"""nlvr (vision): decides whether a sentence is true of a picture with three boxes of shapes."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import records
from vlrl.data.shards import NewRow

SOURCE = "lil-lab/nlvr"
LICENCE = "CC BY 4.0"
VERSION = 1
TRAIN, EVAL = None, 60
TASK = "true_false"


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="train")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    return NewRow(question=f"True or false: {raw['statement'].strip()}", answer=raw["label"].lower(), images=(raw["image"],))

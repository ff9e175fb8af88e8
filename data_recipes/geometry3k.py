"""geometry3k (vision): questions about a geometric figure, with expressions as answers."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import records
from vlrl.data.shards import NewRow

SOURCE = "hiyouga/geometry3k"
LICENCE = "MIT"
VERSION = 1
TRAIN, EVAL = None, 200
TASK = "geometry"


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="train")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    question = raw["problem"].replace("<image>", "").strip()
    return NewRow(question=question, answer=raw["answer"].strip(), images=raw["images"])

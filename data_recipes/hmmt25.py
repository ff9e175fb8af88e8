"""hmmt25 (math): the problems of the Harvard-MIT contest of February 2025, with expressions as answers. For evaluation."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import records
from vlrl.data.shards import NewRow

SOURCE = "MathArena/hmmt_feb_2025"
LICENCE = "CC BY-NC-SA 4.0"
VERSION = 1
TRAIN, EVAL = 0, None
TASK = "math_expression"


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="train")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    return NewRow(question=raw["problem"].strip(), answer=str(raw["answer"]).strip())

"""beyond_aime (math): a hundred problems harder than AIME's, with integer answers. For evaluation."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import records
from vlrl.data.shards import NewRow

SOURCE = "ByteDance-Seed/BeyondAIME"
LICENCE = "CC0"
VERSION = 1
TRAIN, EVAL = 0, None
TASK = "math_number"


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="test")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    return NewRow(question=raw["problem"].strip(), answer=str(raw["answer"]).strip())

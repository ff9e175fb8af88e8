"""competition_math (math): the problems of MATH that are not in MATH-500, with expressions as answers."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "hiyouga/math12k"
LICENCE = "MIT"
VERSION = 1
TRAIN, EVAL = None, 200
TASK = "math_expression"


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="train")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    if "[asy]" in raw["problem"]:
        raise Drop("a drawing in the problem")
    return NewRow(question=raw["problem"], answer=raw["answer"])

"""math500 (math): five hundred problems of MATH, with expressions as answers. For evaluation."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "HuggingFaceH4/MATH-500"
LICENCE = "MIT"
VERSION = 1
TRAIN, EVAL = 0, None
TASK = "math_expression"


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="test")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    if "[asy]" in raw["problem"]:
        raise Drop("a drawing in the problem")
    return NewRow(
        question=raw["problem"], answer=raw["answer"], meta={"subject": raw.get("subject", ""), "level": raw.get("level", 0)}
    )

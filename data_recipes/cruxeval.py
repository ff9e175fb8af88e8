"""cruxeval (code): predicts what a short Python function returns for an input. For evaluation."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "cruxeval-org/cruxeval"
LICENCE = "MIT"
VERSION = 1
TRAIN, EVAL = 0, None
TASK = "output_prediction"


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="test")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    if any(brace in raw["output"] for brace in "{}") and raw["output"].count("{") != raw["output"].count("}"):
        raise Drop("an output with unbalanced braces, which a box cannot hold")
    question = f"What does f return?\n\n```python\n{raw['code']}\n```\n\nf({raw['input']})"
    return NewRow(question=question, answer=raw["output"])

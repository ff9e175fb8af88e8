"""humaneval (code): writes a function from its signature and docstring; tests check it. For evaluation."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import records
from vlrl.data.shards import NewRow

SOURCE = "openai/openai_humaneval"
LICENCE = "MIT"
VERSION = 1
TRAIN, EVAL = 0, None
TASK = "code_tests"


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="test")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    """The prompt is the tests' setup, because tests may call its helper functions."""
    return NewRow(
        question=f"Complete this function:\n\n{raw['prompt'].strip()}",
        meta={
            "entry_point": raw["entry_point"],
            "tests": [raw["test"] + "\ncheck(candidate)"],
            "setup": raw["prompt"] + "\n    pass",
        },
        response=f"```python\n{raw['prompt']}{raw['canonical_solution']}\n```",
    )

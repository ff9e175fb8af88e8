"""humaneval (code): functions from their signature and docstring, checked by their tests. For evaluation."""

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
    """The prompt's own helpers, which tests may call, are the tests' setup."""
    return NewRow(
        question=f"Complete this function:\n\n{raw['prompt'].strip()}",
        meta={
            "entry_point": raw["entry_point"],
            "tests": [raw["test"] + "\ncheck(candidate)"],
            "setup": raw["prompt"] + "\n    pass",
        },
        response=f"```python\n{raw['prompt']}{raw['canonical_solution']}\n```",
    )

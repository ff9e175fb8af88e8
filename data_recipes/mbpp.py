"""mbpp (code): writes a short function from a sentence; asserts check it, and the question shows one of them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "google-research-datasets/mbpp"
LICENCE = "CC BY 4.0"
VERSION = 1
TRAIN, EVAL = None, 100
TASK = "code_tests"
DEFINED = re.compile(r"^def (\w+)", re.MULTILINE)


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="train")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    """The entry point is the function that the reference code defines and the tests call."""
    tests, code = raw["test_list"], raw["code"].replace("\r\n", "\n")
    called = [name for name in DEFINED.findall(code) if re.search(rf"\b{name}\(", tests[0])]
    if not called:
        raise Drop("no function that its tests call")
    return NewRow(
        question=f"{raw['text']}\nThe function must pass:\n{tests[0]}",
        meta={"entry_point": called[0], "tests": list(tests), "setup": raw.get("test_setup_code") or ""},
        response=f"```python\n{code.strip()}\n```",
    )

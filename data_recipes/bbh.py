"""bbh (logic): the questions of BIG-Bench Hard that have lettered options."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "lukaemon/bbh"
LICENCE = "MIT"
VERSION = 1
TRAIN, EVAL = None, 100
TASK = "multiple_choice"
OPTION = re.compile(r"^\(([A-Z])\) (.+)$", re.MULTILINE)


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="test")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    question, _, listed = raw["input"].partition("\nOptions:\n")
    options = OPTION.findall(listed)
    if not options:
        raise Drop("no lettered options")
    meta = {"options": [text for _, text in options]} | ({"family": raw["task"]} if "task" in raw else {})
    return NewRow(question=question, answer=raw["target"].strip("()"), meta=meta)

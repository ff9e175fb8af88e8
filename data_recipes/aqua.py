"""aqua (math): algebra word problems with five lettered options."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "deepmind/aqua_rat"
LICENCE = "Apache-2.0"
VERSION = 1
TRAIN, EVAL = 20_000, 250
TASK = "multiple_choice"
OPTION = re.compile(r"\s*\(?([A-E])\s*\)(.*)", re.DOTALL)


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="train", config="raw")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    listed = [OPTION.fullmatch(option) for option in raw["options"]]
    options = [match[2].strip() for match in listed if match]
    if "".join(match[1] for match in listed if match) != "ABCDE"[: len(listed)] or not all(options):
        raise Drop("options that are not lettered in order")
    if len(set(options)) < len(options):
        raise Drop("a repeated option")
    return NewRow(question=raw["question"].strip(), answer=raw["correct"].strip(), meta={"options": options})

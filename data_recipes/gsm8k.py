"""gsm8k (math): primary-school word problems with one number as the answer, from the hub or from a file."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "openai/gsm8k"
LICENCE = "MIT"
VERSION = 1
TRAIN, EVAL = None, 200
TASK = "math_number"
CALCULATION = re.compile(r"<<[^<>]*>>")


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="train", config="main")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    working, mark, answer = raw["answer"].rpartition("####")
    if not mark:
        raise Drop("no #### before the answer")
    working, answer = CALCULATION.sub("", working).strip(), answer.strip().replace(",", "")
    return NewRow(question=raw["question"].strip(), answer=answer, response=f"{working}\n\\boxed{{{answer}}}")

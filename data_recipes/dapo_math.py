"""dapo_math (math): the seventeen thousand problems of DAPO, with integer answers.

Reads the original data set, which wraps each problem in a chat message and repeats it a hundred times, and the processed one.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "open-r1/DAPO-Math-17k-Processed"
LICENCE = "Apache-2.0"
VERSION = 1
TRAIN, EVAL = None, 200
TASK = "math_number"
WRAPPER = re.compile(r"Solve the following math problem step by step\..*?\n\n(.*?)\n\nRemember to put your answer.*", re.DOTALL)


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="train", config="en")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    text = raw["prompt"] if isinstance(raw["prompt"], str) else raw["prompt"][0]["content"]
    wrapped = WRAPPER.fullmatch(text.strip())
    answer = (raw["solution"] if "solution" in raw else raw["reward_model"]["ground_truth"]).strip()
    if not re.fullmatch(r"-?\d+", answer):
        raise Drop("an answer that is not an integer")
    return NewRow(question=(wrapped[1] if wrapped else text).strip(), answer=answer)

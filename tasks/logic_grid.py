"""logic_grid: a zebra puzzle's table as JSON; all cells must be right. Rows: data_recipes/zebralogic.py."""

import json

from vlrl.common.responses import after_reasoning
from vlrl.types import Message, Row, Score
from vlrl.verifiers.grids import right_cells

INSTRUCTION = "Please reason step by step, and end with the filled table as JSON in one ```json block:"


def prompt(row: Row) -> list[Message]:
    blank = {name: dict.fromkeys(cells, "...") for name, cells in row.meta["solution"].items()}
    text = f"{row.question}\n\n{INSTRUCTION}\n{json.dumps(blank)}"
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


def verify(response: str, row: Row) -> Score:
    """The share of right cells is only a part for the log, because many cells can be guessed."""
    text = after_reasoning(response)
    answer = text.rpartition("```json")[2].partition("```")[0] if "```json" in text else text
    share = right_cells(answer, row.meta["solution"])
    return Score(reward=float(share == 1), parts={"cells": share})


TWO = Row(meta={"solution": {"House 1": {"Name": "Eric", "Pet": "cat"}, "House 2": {"Name": "Arnold", "Pet": "dog"}}})
RIGHT = '{"House 1": {"Name": "Eric", "Pet": "cat"}, "House 2": {"Name": "Arnold", "Pet": "dog"}}'
EXAMPLES = [
    (f"So it is\n```json\n{RIGHT}\n```", TWO, 1.0),
    (RIGHT.lower().replace("house", "House").replace("name", "Name").replace("pet", "Pet"), TWO, 1.0),
    (f"{RIGHT}<|im_end|>", TWO, 1.0),
    (RIGHT.replace("cat", "dog"), TWO, 0.0),
    (RIGHT.replace(', "House 2": {"Name": "Arnold", "Pet": "dog"}', ""), TWO, 0.0),
    (f"<think>{RIGHT}</think>", TWO, 0.0),
    (f"```json\n{RIGHT}\n```\n```json\n{{}}\n```", TWO, 0.0),  # the last block counts
]

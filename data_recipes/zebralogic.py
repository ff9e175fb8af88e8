"""zebralogic (logic): finds out from clues who lives in which house with what. For evaluation.

The other public copy, allenai/ZebraLogicBench, has no solutions.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "WildEval/ZebraLogic"
LICENCE = "as its source says"
VERSION = 1
TRAIN, EVAL = 0, None
TASK = "logic_grid"
BLANK = "___"


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="test", config="grid_mode")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    """The table's first column is the house's number; the other columns are features of the house."""
    header, houses = raw["solution"]["header"], raw["solution"]["rows"]
    if any(cell == BLANK for house in houses for cell in house):
        raise Drop("no solution")
    grid = {f"House {number}": dict(zip(header[1:], cells, strict=True)) for number, *cells in houses}
    return NewRow(question=raw["puzzle"].strip(), meta={"solution": grid, "size": raw["size"]}, response=json.dumps(grid))

"""reasoning_gym (logic): a family of reasoning-gym's puzzles. --from names the family, --task the task that verifies it.

vlrl data build data_recipes/reasoning_gym.py --from sudoku --task sudoku --out data/sudoku
"""

from collections.abc import Iterator, Mapping
from typing import Any

import reasoning_gym

from vlrl.data.recipe import Drop
from vlrl.data.shards import NewRow

SOURCE = "zebra_puzzles"
LICENCE = "Apache-2.0"
VERSION = 1
TRAIN, EVAL = 500, 100
DRAWN = 700
TASK = "short_answer"
FAMILIES = {  # each family's task, and the keys of the puzzle that the task needs
    "knights_knaves": ("knights_knaves", ("names", "knight_knave_terms", "statements", "solution")),
    "sudoku": ("sudoku", ("puzzle",)),
    "mini_sudoku": ("sudoku", ("puzzle",)),
    "futoshiki": ("futoshiki", ("puzzle", "constraints")),
    "n_queens": ("queens", ("puzzle",)),
    "shortest_path": ("shortest_path", ("matrix",)),
    **dict.fromkeys(("zebra_puzzles", "family_relationships", "syllogism", "course_schedule"), ("short_answer", ())),
    **dict.fromkeys(("circuit_logic", "self_reference", "aiw", "maze"), ("math_number", ())),
}


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    family = source or SOURCE
    if family not in FAMILIES:
        raise ValueError(
            f"no family {family!r}; known, with their tasks: { ({name: task for name, (task, _) in FAMILIES.items()}) }"
        )
    return iter(reasoning_gym.create_dataset(family, size=DRAWN, seed=seed))


def to_row(raw: Mapping[str, Any]) -> NewRow:
    puzzle = raw["metadata"]
    if not raw["answer"]:
        raise Drop("no answer")
    _, read = FAMILIES[puzzle["source_dataset"]]
    meta = {"family": puzzle["source_dataset"], **{key: puzzle[key] for key in read}}
    return NewRow(question=raw["question"], answer=str(raw["answer"]), meta=meta)

"""puzzlevqa (vision): picks the missing part of a pattern of shapes, colours and numbers from a few options."""

from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import records
from vlrl.data.shards import NewRow

SOURCE = "declare-lab/PuzzleVQA"
LICENCE = "MIT"
VERSION = 1
TRAIN, EVAL = None, 20
TASK = "multiple_choice"


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    return records(source, SOURCE, split="train")


def to_row(raw: Mapping[str, Any]) -> NewRow:
    """The answer is the letter, because an option's text may look like another option's letter."""
    options = [str(option) for option in raw["options"]]
    letter = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[options.index(str(raw["answer"]))]
    return NewRow(question=raw["question"], answer=letter, images=(raw["image"],), meta={"options": options})

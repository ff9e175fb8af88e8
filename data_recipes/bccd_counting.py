"""bccd_counting (vision): counts the cells of one kind in a photo of blood."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "Shenggan/BCCD_Dataset"
LICENCE = "MIT"
VERSION = 1
TRAIN, EVAL = None, 20
TASK = "counting"
KINDS = {"RBC": "red blood cells", "WBC": "white blood cells", "Platelets": "platelets"}
MOST = 12  # with more cells, they overlap and even people disagree


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    for raw in records(source, SOURCE, split="train"):
        yield from ({**raw, "kind": kind} for kind in KINDS)


def to_row(raw: Mapping[str, Any]) -> NewRow:
    count = Counter(each["label"] for each in raw["objects"])[raw["kind"]]
    if count > MOST:
        raise Drop(f"more than {MOST} of a kind")
    return NewRow(question=f"How many {KINDS[raw['kind']]} does the photo show?", answer=str(count), images=(raw["image"],))

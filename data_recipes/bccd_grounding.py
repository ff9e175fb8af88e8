"""bccd_grounding (vision): finds the cells of one kind in a photo of blood, with a box for each."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "Shenggan/BCCD_Dataset"
LICENCE = "MIT"
VERSION = 1
TRAIN, EVAL = None, 20
TASK = "grounding"
KINDS = {"RBC": "red blood cell", "WBC": "white blood cell", "Platelets": "platelet"}
MOST = 12


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    for raw in records(source, SOURCE, split="train"):
        yield from ({**raw, "kind": kind} for kind in KINDS)


def to_row(raw: Mapping[str, Any]) -> NewRow:
    """The demonstration uses Qwen3-VL's coordinates, 0 to 1000 in both directions."""
    boxes = [each["bbox"] for each in raw["objects"] if each["label"] == raw["kind"]]
    if not 0 < len(boxes) <= MOST:
        raise Drop(f"none of a kind, or more than {MOST}")
    scale = (1000 / raw["width"], 1000 / raw["height"]) * 2
    found = [{"bbox_2d": [round(x * by) for x, by in zip(box, scale, strict=True)], "label": KINDS[raw["kind"]]} for box in boxes]
    return NewRow(
        question=f"Find every {KINDS[raw['kind']]}.",
        images=(raw["image"],),
        meta={"width": raw["width"], "height": raw["height"], "boxes": boxes},
        response=json.dumps(found),
    )

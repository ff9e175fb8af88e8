"""Boxes, points, counts, read text, chart values and choices: every published vector has its verdict; the cells of BCCD."""

import json
from pathlib import Path

import pytest

from tests.conftest import SHARED
from tests.verifiers.test_boxes import rendered
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.boxes import Frame, box_iou, boxes_f1, point_in_box
from vlrl.verifiers.choices import same_choice
from vlrl.verifiers.text import anls, count, relaxed_number

PLACES = {"iou_rel1000": box_iou, "iou_abs": box_iou, "multi_iou50_f1": boxes_f1, "point_in_box": point_in_box}
TEXTS = {"count": lambda answer, gold: count(answer) == gold, "anls": anls, "relaxed5": relaxed_number}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def vectors(kinds) -> list[dict]:
    return [case for case in lines(SHARED / "vectors/vision_cases.jsonl") if case["kind"] in kinds]


@pytest.mark.parametrize("case", vectors(PLACES), ids=str)
def test_a_place_gets_its_verdict(case):
    size = (case["width"], case["height"])
    pixels = {"convention": "pixels", "resized": size} if case["kind"] == "iou_abs" else {}
    value = PLACES[case["kind"]](case["answer"], case["gold"], Frame(width=size[0], height=size[1], **pixels))
    if case["expected"] is None:
        assert case["expected_min"] <= value <= case["expected_max"]
    else:
        assert value == pytest.approx(case["expected"])


@pytest.mark.parametrize("case", vectors(TEXTS), ids=str)
def test_a_text_gets_its_verdict(case):
    answer = last_boxed(case["answer"]) or case["answer"]
    assert TEXTS[case["kind"]](answer, case["gold"]) == pytest.approx(case["expected"])


def test_every_choice_has_its_verdict():
    cases = vectors(["mcq"])
    assert len(cases) == 13
    for case in cases:
        assert same_choice(case["answer"], case["gold"]["letter"], case["gold"]["options"]) == bool(case["expected"])


@pytest.mark.parametrize("row", lines(SHARED / "data/vision/bccd/rows.jsonl"), ids=lambda row: row["image"])
def test_the_cells_of_a_photo_survive_thousandths_and_their_counts_are_read(row):
    width, height = row["width"], row["height"]
    frame, golds = Frame(width=width, height=height), [item["bbox"] for item in row["objects"]]
    num = len(golds)
    assert boxes_f1(rendered(golds, width, height), golds, frame) == 1
    assert boxes_f1(rendered(golds[1:], width, height), golds, frame) == pytest.approx(2 * (num - 1) / (2 * num - 1))
    assert boxes_f1(rendered([*golds, golds[0]], width, height), golds, frame) == pytest.approx(2 * num / (2 * num + 1))
    assert min(box_iou(rendered([gold], width, height), gold, frame) for gold in golds) > 0.95
    for value in row["counts"].values():
        assert count(f" {value}. ") == value and relaxed_number(str(value), str(value), exact=True)

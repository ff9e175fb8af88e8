"""Recipes with pictures: those of the hub on made-up records, and the truth of those that draw their own."""

import io
import json
import math
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from tests.preflight.good_run import png
from vlrl.data.build import build
from vlrl.data.recipe import Drop, Recipe, load_recipe
from vlrl.tasks import gold, load_task, score_response

ROOT = Path(__file__).parents[2]
DRAWN = ("table_charts", "tables", "clocks", "scenes", "pointing", "signs")

# Each recipe's records, with images as paths; its rows; how many are left out for which reason; a wrong answer.
SETS = {
    "geometry3k": (
        [
            {"images": ["0.png"], "problem": "<image>Find $x$.", "answer": "2 \\sqrt { 221 }"},
            {"images": ["1.png", "0.png"], "problem": "<image><image>Find $\\angle 3$.", "answer": "38"},
        ],
        2,
        {},
        "\\boxed{37}",
    ),
    "mathvision": (
        [
            {"question": "Which is next?\n<image1>", "options": ["A", "B", "C"], "answer": "B", "subject": "logic", "level": 2},
            {"question": "How many? <image1>", "options": [], "answer": "7", "subject": "counting", "level": 1},
            {"question": "What area? <image1>", "options": ["$2$", "$3$"], "answer": "E", "subject": "area", "level": 1},
        ],
        2,
        {"its own answer is not accepted by geometry (bad_row)": 1},
        "\\boxed{C}",
    ),
    "chartqa": (
        [
            {"image": "0.png", "query": "What is the peak?", "label": ["57.4"], "human_or_machine": 0},
            {"image": "1.png", "query": "How many bars are blue?", "label": ["4"], "human_or_machine": 0},
            {"image": "1.png", "query": "Which two are equal?", "label": ["Spain", "Italy"], "human_or_machine": 0},
        ],
        2,
        {"more than one answer": 1},
        "\\boxed{5}",
    ),
}


def recipe(name: str) -> Recipe:
    return load_recipe(ROOT / "data_recipes" / f"{name}.py")


def drawn(name: str, count: int) -> list[tuple]:
    """The first records of a recipe that make rows, each with its row."""
    made = recipe(name)

    def pairs():
        for raw in made.raws(None, 0):
            try:
                yield raw, made.to_row(raw)
            except Drop:
                continue

    return list(islice(pairs(), count))


def picture(row) -> Image.Image:
    return Image.open(io.BytesIO(row.images[0])).convert("RGB")


@pytest.fixture(scope="module")
def built(tmp_path_factory, pool):
    """A function that builds a recipe's records whole, as its evaluation set."""

    def build_from_file(name: str) -> tuple:
        folder = tmp_path_factory.mktemp(name)
        for number in range(2):
            (folder / f"{number}.png").write_bytes(png(40 + number, 40))
        raws = [{"decoded_image": "0.png", **raw} if name == "mathvision" else raw for raw in SETS[name][0]]
        (folder / "raws.jsonl").write_text("".join(json.dumps(raw) + "\n" for raw in raws))
        whole = replace(recipe(name), sizes={"train": 0, "eval": None})
        datasets, left_out = build(whole, folder, pool, source=str(folder / "raws.jsonl"))
        return [datasets["eval"][n] for n in range(len(datasets["eval"]))], left_out

    return build_from_file


@pytest.mark.parametrize("name", SETS)
def test_records_become_rows_with_their_images_or_are_left_out_for_a_reason(built, name):
    rows, left_out = built(name)
    records, num_rows, reasons, wrong = SETS[name]
    assert (len(rows), Counter(left.reason for left in left_out)) == (num_rows, reasons)
    task = load_task(recipe(name).task, [ROOT / "tasks"])
    for row in rows:
        assert row.images and "<image" not in row.question
        assert (score_response(task, gold(row), row).reward, score_response(task, wrong, row).reward) == (1.0, 0.0)


def test_a_figure_may_have_two_pictures(built):
    assert sorted(len(row.images) for row in built("geometry3k")[0]) == [1, 2]


def test_a_count_in_a_chart_has_no_tolerance(built):
    exact = {row.question: row.meta["exact"] for row in built("chartqa")[0]}
    assert exact == {"What is the peak?": False, "How many bars are blue?": True}


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_is_the_same_bytes_each_time(name):
    assert [row for _, row in drawn(name, 5)] == [row for _, row in drawn(name, 5)]


def test_each_thing_of_a_scene_fills_its_box_and_nothing_is_drawn_outside():
    for (_, things), row in drawn("scenes", 20):
        image = picture(row)
        for thing in things:
            left, top, right, bottom = thing.box
            colour = ImageColor.getrgb(thing.colour)
            inside = [place for place in pixels(image, thing.box) if image.getpixel(place) == colour]
            xs, ys = [x for x, _ in inside], [y for _, y in inside]
            assert (min(xs), min(ys), max(xs), max(ys)) == (left, top, right - 1, bottom - 1)
        area = sum(len(list(pixels(image, thing.box))) for thing in things)
        painted = sum(count for count, colour in image.getcolors(1 << 20) if colour != (255, 255, 255))
        assert painted <= area
        asked = [list(t.box) for t in things if f"{t.colour} {t.shape}" in row.question]
        assert row.meta["boxes"] == asked


def pixels(image: Image.Image, box: tuple) -> list[tuple[int, int]]:
    left, top, right, bottom = box
    return [(x, y) for x in range(left, right) for y in range(top, bottom)]


def test_a_clock_s_minute_hand_points_to_its_minute():
    for clock, row in drawn("clocks", 30):
        angle = 2 * math.pi * (clock.minutes % 60) / 60
        on_the_hand = (round(128 + 45 * math.sin(angle)), round(128 - 45 * math.cos(angle)))
        assert near(picture(row).getpixel(on_the_hand), ImageColor.getrgb(clock.colour)), row.answer
        hour, minute = map(int, row.answer.split(":"))
        assert (hour % 12) * 60 + minute == clock.minutes and 1 <= hour <= 12


def near(one: tuple, other: tuple) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 60


def test_a_table_s_answers_are_those_of_its_numbers():
    asked = set()
    for table, row in drawn("tables", 60):
        column = {item: months[table.month] for item, months in table.sales.items()}
        answers = {
            "cell": str(column[table.item]),
            "row": str(sum(table.sales[table.item].values())),
            "column": str(sum(column.values())),
            "most": next(item for item, count in column.items() if count == max(column.values())),
        }
        assert row.answer == answers[table.ask]
        asked.add(table.ask)
    assert asked == {"cell", "row", "column", "most"}


def test_a_chart_s_bars_are_as_high_as_its_values():
    for chart, row in drawn("table_charts", 60):
        if chart.kind == "bar":
            image, colour = picture(row), ImageColor.getrgb(chart.colour)
            step = 400 / len(chart.values)
            heights = []
            for place in range(len(chart.values)):
                x = round(64 + (place + 0.5) * step)
                heights.append(sum(image.getpixel((x, y)) == colour for y in range(300)))
            scale = max(heights) / max(chart.values.values())
            assert all(abs(h - scale * v) <= 2 for h, v in zip(heights, chart.values.values(), strict=True))
        if row.meta["exact"]:
            limit = float(row.question.removeprefix("How many values are above ").removesuffix("?"))
            assert row.answer == str(sum(value > limit for value in chart.values.values()))
        elif "highest" in row.question:
            assert chart.values[row.answer] == max(chart.values.values())
        else:
            assert float(row.answer) == pytest.approx(chart.values[chart.name], rel=1e-4)


def test_a_sign_that_is_furthest_out_is_the_one_that_is_asked_for():
    for (signs, colour, asked), row in drawn("pointing", 60):
        box = tuple(row.meta["box"])
        others = [other for other in signs.values() if other != box]
        assert len(others) == len(signs) - 1
        if asked == "furthest to the left":
            assert all(box[0] < other[0] for other in others)
        elif asked == "at the bottom":
            assert all(box[3] > other[3] for other in others)
        elif len(asked) == 1:
            assert signs[asked] == box
        assert picture(row).getpixel((box[0] + 3, (box[1] + box[3]) // 2)) == ImageColor.getrgb(colour)

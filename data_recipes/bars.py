"""bars (vision): bar charts of random tables, with a question about the height of one bar."""

import random
from collections.abc import Iterator

from PIL import Image, ImageDraw

from vlrl.data.recipe import png
from vlrl.data.shards import NewRow

SOURCE = "rendered by this recipe"
LICENCE = "Apache-2.0"
VERSION = 1
TRAIN, EVAL = 500, 100
DRAWN = 620
TASK = "chart"
NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
WIDTH, HEIGHT, FLOOR, TOP = 320, 240, 210, 20  # pixels; the axis goes from 0 at FLOOR to 100 at TOP


def raws(source: str | None, seed: int) -> Iterator[tuple[dict[str, int], str]]:
    """Yields each chart's table, with values from 20 to 100, and the name of the bar in the question."""
    rng = random.Random(seed)
    for _ in range(DRAWN):
        names = rng.sample(NAMES, rng.randint(3, 6))
        yield {name: rng.randint(20, 100) for name in names}, rng.choice(names)


def to_row(raw: tuple[dict[str, int], str]) -> NewRow:
    table, asked = raw
    return NewRow(question=f"What is the value of {asked}?", answer=str(table[asked]), images=(render(table),))


def render(table: dict[str, int]) -> bytes:
    """The chart as PNG, with a labelled line at every 20."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    for value in range(0, 101, 20):
        draw.line([(36, _y(value)), (WIDTH - 8, _y(value))], fill="lightgrey")
        draw.text((8, _y(value) - 6), str(value), fill="black")
    step = (WIDTH - 52) / len(table)
    for number, (name, value) in enumerate(table.items()):
        left = 44 + number * step
        draw.rectangle([left, _y(value), left + 0.7 * step, FLOOR], fill="steelblue")
        draw.text((left + 2, FLOOR + 6), name, fill="black")
    return png(image)


def _y(value: int) -> float:
    return FLOOR - (FLOOR - TOP) * value / 100

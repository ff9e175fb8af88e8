"""tables (vision): rendered tables of a shop's sales, with a question about a value, a sum or the best seller."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from vlrl.data.recipe import png
from vlrl.data.shards import NewRow

SOURCE = "rendered by this recipe"
LICENCE = "Apache-2.0"
VERSION = 1
TRAIN, EVAL = 1000, 100
DRAWN = 1200
TASK = "chart"
ITEMS = ("Apples", "Bread", "Candles", "Drums", "Eggs", "Flutes", "Grapes", "Hats", "Ink", "Jam", "Kites", "Lamps")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun")
CELL_WIDTH, CELL_HEIGHT, FIRST_WIDTH, MARGIN = 64, 30, 92, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Sales by item and month, and the question: a cell, the sum of a row or a column, or the item that sold most."""

    sales: dict[str, dict[str, int]]
    ask: str
    item: str
    month: str


def raws(source: str | None, seed: int) -> Iterator[Table]:
    rng = random.Random(seed)
    for _ in range(DRAWN):
        months = MONTHS[: rng.randint(3, 6)]
        items = rng.sample(ITEMS, rng.randint(3, 7))
        values = iter(rng.sample(range(1, 100), len(items) * len(months)))  # all different, so the maximum is unique
        sales = {item: {month: next(values) for month in months} for item in items}
        ask = rng.choice(("cell", "row", "column", "most"))
        yield Table(sales=sales, ask=ask, item=rng.choice(items), month=rng.choice(months))


def to_row(raw: Table) -> NewRow:
    sales = raw.sales
    if raw.ask == "cell":
        question, answer = f"How many {raw.item} were sold in {raw.month}?", str(sales[raw.item][raw.month])
    elif raw.ask == "row":
        question, answer = f"How many {raw.item} were sold in all months together?", str(sum(sales[raw.item].values()))
    elif raw.ask == "column":
        question = f"How many things were sold in {raw.month}, of all kinds together?"
        answer = str(sum(months[raw.month] for months in sales.values()))
    else:
        question, answer = f"What was sold most in {raw.month}?", max(sales, key=lambda item: sales[item][raw.month])
    return NewRow(question=question, answer=answer, images=(render(sales),), meta={"exact": True})


def render(sales: dict[str, dict[str, int]]) -> bytes:
    """The table as PNG, with a grey first row and column."""
    months = list(next(iter(sales.values())))
    width, height = FIRST_WIDTH + CELL_WIDTH * len(months), CELL_HEIGHT * (len(sales) + 1)
    image = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)
    lines = [["", *months], *([item, *map(str, by_month.values())] for item, by_month in sales.items())]
    for row, cells in enumerate(lines):
        for column, text in enumerate(cells):
            left = MARGIN + (FIRST_WIDTH + CELL_WIDTH * (column - 1) if column else 0)
            top = MARGIN + CELL_HEIGHT * row
            right, bottom = left + (CELL_WIDTH if column else FIRST_WIDTH), top + CELL_HEIGHT
            draw.rectangle([left, top, right, bottom], fill="gainsboro" if 0 in (row, column) else "white", outline="grey")
            draw.text(((left + right) / 2, (top + bottom) / 2), text, fill="black", font=font, anchor="mm")
    return png(image)

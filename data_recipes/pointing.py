"""pointing (vision): points to one of several signs on a wall, given its letter or its position."""

import json
import random
from collections.abc import Iterator

from PIL import Image, ImageDraw, ImageFont

from vlrl.data.recipe import Drop, png
from vlrl.data.shards import NewRow

SOURCE = "rendered by this recipe"
LICENCE = "Apache-2.0"
VERSION = 1
TRAIN, EVAL = 1000, 100
DRAWN = 2000
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
WIDTH, HEIGHT, SIDE, ACROSS, DOWN = 416, 320, 44, 5, 4
CLEAR = 16  # pixels between the outermost sign and the next one
COLOURS = ("navy", "darkgreen", "maroon", "purple", "black")
PLACES = {  # sort keys; the first sign in this order is the answer
    "furthest to the left": lambda box: box[0],
    "furthest to the right": lambda box: -box[0],
    "at the top": lambda box: box[1],
    "at the bottom": lambda box: -box[1],
}
Wall = tuple[dict[str, tuple[int, int, int, int]], str, str]
"""The signs' boxes in pixels by letter, their colour, and the letter or position in the question."""


def raws(source: str | None, seed: int) -> Iterator[Wall]:
    rng = random.Random(seed)
    cells = [(column, row) for column in range(ACROSS) for row in range(DOWN)]
    room_x, room_y = WIDTH // ACROSS - SIDE, HEIGHT // DOWN - SIDE
    for _ in range(DRAWN):
        signs = {}
        for letter, (column, row) in zip(rng.sample(LETTERS, k := rng.randint(3, 9)), rng.sample(cells, k), strict=True):
            left = column * (WIDTH // ACROSS) + rng.randrange(room_x)
            top = row * (HEIGHT // DOWN) + rng.randrange(room_y)
            signs[letter] = (left, top, left + SIDE, top + SIDE)
        yield signs, rng.choice(COLOURS), rng.choice([rng.choice(list(signs)), *PLACES])


def to_row(raw: Wall) -> NewRow:
    """The demonstration points to the sign's middle, in Qwen3-VL's coordinates."""
    signs, _, asked = raw
    letter = asked
    if asked in PLACES:
        order = PLACES[asked]
        letter, second, *_ = sorted(signs, key=lambda letter: order(signs[letter]))
        if order(signs[second]) - order(signs[letter]) < CLEAR:
            raise Drop("two signs that are nearly level")
    left, top, right, bottom = signs[letter]
    point = [round(500 * (left + right) / WIDTH), round(500 * (top + bottom) / HEIGHT)]
    return NewRow(
        question=f"Point to the sign {asked}.",
        images=(render(raw),),
        meta={"width": WIDTH, "height": HEIGHT, "box": [left, top, right, bottom]},
        response=json.dumps({"point_2d": point}),
    )


def render(wall: Wall) -> bytes:
    signs, colour, _ = wall
    image = Image.new("RGB", (WIDTH, HEIGHT), "whitesmoke")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(26)
    for letter, (left, top, right, bottom) in signs.items():
        draw.rounded_rectangle([left, top, right - 1, bottom - 1], 6, fill=colour)
        draw.text(((left + right) / 2, (top + bottom) / 2), letter, fill="white", font=font, anchor="mm")
    return png(image)

"""signs (vision): reads signs with a few words on them."""

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
DRAWN = 1100
TASK = "reading"
FIRST = ("North", "Old", "Mill", "River", "Grand", "Silver", "Upper", "Stone", "Harbour", "Green", "King's", "Lower")
SECOND = ("Street", "Bridge", "Station", "Market", "Garden", "Gate", "Road", "Library", "Square", "Hall", "Museum", "Park")
PAINTS = (("white", "darkgreen"), ("white", "navy"), ("black", "gold"), ("white", "firebrick"), ("black", "white"))
WIDTH, HEIGHT = 384, 160


@dataclass(frozen=True, kw_only=True, slots=True)
class Sign:
    """A sign's words, text and background colour, letter height in pixels, and angle in degrees."""

    words: str
    ink: str
    ground: str
    size: int
    lean: float


def raws(source: str | None, seed: int) -> Iterator[Sign]:
    rng = random.Random(seed)
    for _ in range(DRAWN):
        number = f" {rng.randint(2, 199)}" if rng.random() < 0.6 else ""
        ink, ground = rng.choice(PAINTS)
        words = f"{rng.choice(FIRST)} {rng.choice(SECOND)}{number}"
        yield Sign(words=words, ink=ink, ground=ground, size=rng.randint(20, 30), lean=rng.uniform(-6, 6))


def to_row(raw: Sign) -> NewRow:
    return NewRow(question="What does the sign say?", answer=raw.words, images=(render(raw),))


def render(sign: Sign) -> bytes:
    """The sign as PNG, on a grey wall."""
    font = ImageFont.load_default(sign.size)
    _, _, width, height = font.getbbox(sign.words)
    board = Image.new("RGB", (int(width) + 32, int(height) + 28), sign.ground)
    draw = ImageDraw.Draw(board)
    draw.rectangle([4, 4, board.width - 5, board.height - 5], outline=sign.ink, width=2)
    draw.text((board.width / 2, board.height / 2), sign.words, fill=sign.ink, font=font, anchor="mm")
    wall = Image.new("RGB", (WIDTH, HEIGHT), "lightgrey")
    leaning = board.convert("RGBA").rotate(sign.lean, Image.Resampling.BICUBIC, expand=True)
    wall.paste(leaning, ((WIDTH - leaning.width) // 2, (HEIGHT - leaning.height) // 2), leaning)
    return png(wall)

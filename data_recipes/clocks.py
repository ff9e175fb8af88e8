"""clocks (vision): rendered clock faces, with a question about the time."""

import math
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
TASK = "clock"
SIDE, RADIUS = 256, 110
FINE = 4  # the clock is drawn this many times larger and then scaled down, for smooth hands
COLOURS = ("black", "midnightblue", "darkred", "darkgreen", "saddlebrown")
FACES = ("white", "ivory", "lightcyan", "lavender")


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    minutes: int  # since twelve
    colour: str
    face: str
    numbered: bool


def raws(source: str | None, seed: int) -> Iterator[Clock]:
    rng = random.Random(seed)
    for _ in range(DRAWN):
        yield Clock(minutes=rng.randrange(720), colour=rng.choice(COLOURS), face=rng.choice(FACES), numbered=rng.random() < 0.75)


def to_row(raw: Clock) -> NewRow:
    time = f"{raw.minutes // 60 or 12}:{raw.minutes % 60:02d}"
    return NewRow(question="What time does the clock show?", answer=time, images=(render(raw),))


def render(clock: Clock) -> bytes:
    """The clock as PNG. The hour hand is short and thick, and moves toward the next hour with the minutes."""
    side, radius = SIDE * FINE, RADIUS * FINE
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    middle = side / 2

    def place(turn: float, length: float) -> tuple[float, float]:
        """The point at this fraction of a turn from twelve and this fraction of the radius."""
        angle = 2 * math.pi * turn
        return middle + length * radius * math.sin(angle), middle - length * radius * math.cos(angle)

    draw.circle((middle, middle), radius, fill=clock.face, outline=clock.colour, width=4 * FINE)
    for minute in range(60):
        is_hour = minute % 5 == 0
        ends = [place(minute / 60, 0.88 if is_hour else 0.92), place(minute / 60, 0.96)]
        draw.line(ends, fill=clock.colour, width=(3 if is_hour else 1) * FINE)
        if is_hour and clock.numbered:
            font = ImageFont.load_default(18 * FINE)
            draw.text(place(minute / 60, 0.75), str(minute // 5 or 12), fill=clock.colour, font=font, anchor="mm")
    draw.line([(middle, middle), place(clock.minutes / 720, 0.5)], fill=clock.colour, width=7 * FINE)
    draw.line([(middle, middle), place(clock.minutes % 60 / 60, 0.82)], fill=clock.colour, width=3 * FINE)
    draw.circle((middle, middle), 6 * FINE, fill=clock.colour)
    return png(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))

"""scenes (vision): finds all shapes of one kind among coloured shapes, with a box for each."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vlrl.data.recipe import png
from vlrl.data.shards import NewRow

SOURCE = "rendered by this recipe"
LICENCE = "Apache-2.0"
VERSION = 2
TRAIN, EVAL = 1000, 100
DRAWN = 1150  # more than are kept: in a few, the mean box of the others is right
TASK = "grounding"
SHAPES, COLOURS = ("circle", "square", "triangle"), ("red", "green", "blue", "orange", "purple")
SIZES = ((320, 320), (448, 320), (320, 448))
SMALLEST, LARGEST, GAP = 28, 72, 6  # pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """A shape and its box in pixels: left, top, right, bottom. Right and bottom are one past the last pixel."""

    shape: str
    colour: str
    box: tuple[int, int, int, int]


Scene = tuple[tuple[int, int], list[Thing]]


def raws(source: str | None, seed: int) -> Iterator[Scene]:
    """Yields width and height, and things that do not touch. Several may be of the first thing's kind."""
    rng = random.Random(seed)
    for _ in range(DRAWN):
        width, height = rng.choice(SIZES)
        things: list[Thing] = []
        for number in range(rng.randint(4, 10)):
            side = rng.randint(SMALLEST, LARGEST)
            left, top = rng.randrange(width - side), rng.randrange(height - side)
            box = (left, top, left + side, top + side)
            if any(_touch(box, other.box) for other in things):
                continue
            again = number and rng.random() < 0.25
            shape, colour = (things[0].shape, things[0].colour) if again and things else (rng.choice(SHAPES), rng.choice(COLOURS))
            things.append(Thing(shape=shape, colour=colour, box=box))
        yield (width, height), things


def to_row(raw: Scene) -> NewRow:
    """The demonstration uses Qwen3-VL's coordinates, 0 to 1000 in both directions."""
    (width, height), things = raw
    asked = things[0]
    boxes = [list(thing.box) for thing in things if (thing.shape, thing.colour) == (asked.shape, asked.colour)]
    kind = f"{asked.colour} {asked.shape}"
    scale = (1000 / width, 1000 / height) * 2
    answer = [{"bbox_2d": [round(x * by) for x, by in zip(box, scale, strict=True)], "label": kind} for box in boxes]
    return NewRow(
        question=f"Find every {kind}.",
        images=(render(raw),),
        meta={"width": width, "height": height, "boxes": boxes},
        response=json.dumps(answer),
    )


def render(scene: Scene) -> bytes:
    """The scene as PNG; each thing fills its box."""
    size, things = scene
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for thing in things:
        left, top, right, bottom = thing.box[0], thing.box[1], thing.box[2] - 1, thing.box[3] - 1
        if thing.shape == "circle":
            draw.ellipse([left, top, right, bottom], fill=thing.colour)
        elif thing.shape == "square":
            draw.rectangle([left, top, right, bottom], fill=thing.colour)
        else:
            draw.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=thing.colour)
    return png(image)


def _touch(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] + GAP and other[0] < one[2] + GAP and one[1] < other[3] + GAP and other[1] < one[3] + GAP

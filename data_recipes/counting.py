"""counting (vision): counts the red circles in scenes of red circles and blue squares. One row in ten has two scenes."""

import random
from collections.abc import Iterator

from PIL import Image, ImageDraw

from vlrl.data.recipe import png
from vlrl.data.shards import NewRow

SOURCE = "rendered by this script"
LICENCE = "Apache-2.0"
VERSION = 1
TRAIN, EVAL = 2000, 200
DRAWN = 2400
CELL, CELLS = 16, 4  # a scene is a grid of 4x4 cells of 16 pixels, at most one shape in each
Scene = dict[tuple[int, int], str]
"""The shape at each occupied cell: "circle" (red) or "square" (blue)."""


def raws(source: str | None, seed: int) -> Iterator[tuple[Scene, ...]]:
    rng = random.Random(seed)
    cells = [(column, row) for column in range(CELLS) for row in range(CELLS)]
    for number in range(DRAWN):
        scenes = []
        for most in (3, 3) if number % 10 == 0 else (5,):
            circles, squares = rng.randint(1, most), rng.randint(0, 3)
            taken = rng.sample(cells, circles + squares)
            scenes.append(dict(zip(taken, ["circle"] * circles + ["square"] * squares, strict=True)))
        yield tuple(scenes)


def to_row(raw: tuple[Scene, ...]) -> NewRow:
    count = sum(shape == "circle" for scene in raw for shape in scene.values())
    place = "in both images" if len(raw) > 1 else "are there"
    return NewRow(
        question=f"How many red circles {place}?",
        answer=str(count),
        images=tuple(render(scene) for scene in raw),
        response=f"\\boxed{{{count}}}",
    )


def render(scene: Scene) -> bytes:
    """The scene as PNG, 64x64."""
    image = Image.new("RGB", (CELL * CELLS, CELL * CELLS), "white")
    draw = ImageDraw.Draw(image)
    for (column, row), shape in scene.items():
        box = (column * CELL + 2, row * CELL + 2, column * CELL + CELL - 3, row * CELL + CELL - 3)
        if shape == "circle":
            draw.ellipse(box, fill="red")
        else:
            draw.rectangle(box, fill="blue")
    return png(image)

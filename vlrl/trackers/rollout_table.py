"""The rollouts that trackers show: a few lines of rollouts.jsonl with their pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from vlrl.data.images import open_image
from vlrl.tasks import parts_of

COLUMNS = ("step", "task", "prompt", "answer", "response", "reward", "advantage", "num_tokens", "status")
_SIDE = 320  # pixels of a picture

Line = Mapping[str, Any]
"""A line of rollouts.jsonl."""


def one_group_each(lines: Sequence[Line]) -> list[Line]:
    """The lines of one group of each task, one with a gradient if the task has one."""
    chosen: dict[str, tuple[int, int]] = {}
    for line in sorted(lines, key=lambda line: not line["advantage"]):
        chosen.setdefault(line["task"], (line["slot"], line["round"]))
    return [line for line in lines if chosen[line["task"]] == (line["slot"], line["round"])]


def cells(line: Line) -> list[Any]:
    """The values of COLUMNS."""
    parts = [part for message in line["messages"] for part in parts_of(message)]
    prompt = "\n".join(part["text"] for part in parts if part["type"] == "text")
    return [prompt if name == "prompt" else line[name] for name in COLUMNS]


def picture_of(line: Line) -> Image.Image | None:
    """The prompt's first picture as a thumbnail; None if it has none."""
    images = [part["image"] for message in line["messages"] for part in parts_of(message) if part["type"] == "image"]
    if not images:
        return None
    picture = open_image(images[0], max_side=1 << 14)
    picture.thumbnail((_SIDE, _SIDE))
    return picture


def boxes_of(line: Line) -> list[tuple[float, ...]]:
    """The boxes of the row's answer: left, top, right and bottom edge, as shares of the picture's width and height."""
    boxes = line["boxes"]
    corners = boxes.get("boxes") or [boxes[name] for name in ("box",) if name in boxes]
    extent = (boxes.get("width", 1), boxes.get("height", 1)) * 2
    return [tuple(x / whole for x, whole in zip(box, extent, strict=True)) for box in corners]


def drawn_picture(line: Line) -> Image.Image | None:
    """The picture with the answer's boxes drawn in it."""
    picture = picture_of(line)
    if picture:
        pen = ImageDraw.Draw(picture)
        for left, top, right, bottom in boxes_of(line):
            pen.rectangle(
                (left * picture.width, top * picture.height, right * picture.width, bottom * picture.height), outline="red"
            )
    return picture


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; no cell can end its row or column."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_inline(cell) for cell in line) + " |" for line in lines)


def accuracy_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """The columns and rows of the held-out accuracy in a summary.json."""
    names = ("before", "before_interval", "after", "after_interval", "rows")
    tasks = summary.get("tasks", {})
    return ["task", *names], [[task, *(of_task[name] for name in names)] for task, of_task in tasks.items()]


def _inline(cell: Any) -> str:
    return str(cell).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", "<br>")

"""Boxes and points that a model names in an image: one box by IoU, many by F1, a point by the box it falls in.

A response names them in JSON (see structured.py for where it is looked for): an object with "bbox_2d": [x1, y1, x2, y2] or
"point_2d": [x, y], or a list of such; other keys, such as "label", are not looked at. One that is malformed (not all numbers,
x1 >= x2, y1 >= y2, outside of the image) makes the whole response no answer. References are in pixels of the original image.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vlrl.tasks import BadRow
from vlrl.verifiers.answers import after_reasoning
from vlrl.verifiers.structured import response_json

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, in pixels of the original image."""

Convention = Literal["relative_1000", "pixels"]
"""How a model speaks of places: in thousandths of width and height (Qwen3-VL), or in pixels of the image as it was resized
for the model (Qwen2.5-VL)."""

_PERCENT = r"([0-9]{1,3}(?:\.[0-9]{1,6})?)"
_MOLMO = re.compile(rf'<points? x="{_PERCENT}" y="{_PERCENT}"(?: alt="[^"<>]*")?>[^<>]*</points?>')


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The image that places are in, and the convention they are answered in.

    width, height: of the original image, in pixels.
    resized: width and height of the image that the model saw; needed for "pixels" alone.
    """

    width: int
    height: int
    convention: Convention = "relative_1000"
    resized: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.convention not in get_args(Convention):
            raise BadRow(f"no convention {self.convention!r}; known are {get_args(Convention)}")
        if (self.convention == "pixels") != (self.resized is not None):
            raise BadRow(f"the convention {self.convention!r} with the resized size {self.resized}")
        if len(self.limits) != 2 or any(type(side) is not int or side < 1 for side in (*self.size, *self.limits)):
            raise BadRow(f"an image of {self.size}, resized to {self.resized}")

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def limits(self) -> tuple[int, int]:
        """The greatest x and y that an answer may have."""
        return (1000, 1000) if self.resized is None else self.resized

    @property
    def whole(self) -> Box:
        return 0, 0, self.width, self.height


def box_iou(response: str, gold: Sequence[float], frame: Frame) -> float:
    """The IoU of the response's box with the reference; 0 where it names none or several.

    A box around the whole image has some IoU with any reference: for a reward take `box_gain`.

    >>> frame = Frame(width=1000, height=800)
    >>> box_iou('{"bbox_2d": [100, 250, 300, 500]}', (100, 200, 300, 400), frame)
    1.0
    >>> box_iou('{"bbox_2d": [0, 0, 1000, 1000]}', (100, 200, 300, 400), frame)
    0.05
    """
    expected = _reference(gold, frame)
    boxes = answered_boxes(response, frame)
    return iou(boxes[0], expected) if boxes and len(boxes) == 1 else 0.0


def box_gain(response: str, gold: Sequence[float], frame: Frame) -> float:
    """What the box's IoU gains on that of the whole image, as a share of what could be gained: 0 to 1, and 0 for no more.

    So a box around everything earns nothing, even where the reference fills most of the image. BadRow where it fills all.

    >>> frame = Frame(width=100, height=100)
    >>> box_gain('{"bbox_2d": [0, 0, 1000, 1000]}', (0, 0, 100, 75), frame)
    0.0
    >>> box_gain('{"bbox_2d": [0, 0, 500, 750]}', (0, 0, 50, 100), frame)  # an IoU of 0.75, where the whole image has 0.5
    0.5
    """
    floor = iou(_reference(gold, frame), frame.whole)
    if floor == 1:
        raise BadRow(f"the reference box {gold} is the whole image, so there is nothing to find")
    return max(0.0, (box_iou(response, gold, frame) - floor) / (1 - floor))


def boxes_f1(response: str, golds: Sequence[Sequence[float]], frame: Frame, *, threshold: float = 0.5) -> float:
    """F1 of the response's boxes, each matched with at most one reference and each reference with at most one box.

    The matching is the largest there is among pairs with an IoU of at least `threshold`, so a box said twice is a false
    positive. Where there is no reference, the empty list scores 1 and all else 0.

    >>> frame = Frame(width=1000, height=1000)
    >>> boxes_f1('[{"bbox_2d": [0, 0, 9, 9]}, {"bbox_2d": [0, 0, 9, 9]}]', [(0, 0, 9, 9), (50, 50, 60, 60)], frame)
    0.5
    """
    expected = [_reference(gold, frame) for gold in golds]
    boxes = answered_boxes(response, frame)
    if boxes is None:
        return 0.0
    if not boxes and not expected:
        return 1.0
    close = [[index for index, box in enumerate(boxes) if iou(box, gold) >= threshold] for gold in expected]
    return 2 * _num_matched(close) / (len(boxes) + len(expected))


def point_in_box(response: str, gold: Sequence[float], frame: Frame) -> bool:
    """Whether the response names one point and it is inside the reference box or on its border.

    Read is also Molmo's element, in percent of the image under any convention, as the whole answer.

    >>> frame = Frame(width=1000, height=800)
    >>> point_in_box('{"point_2d": [100, 250]}', (100, 200, 300, 400), frame)
    True
    >>> point_in_box('<points x="20.0" y="37.5" alt="cat">cat</points>', (100, 200, 300, 400), frame)
    True
    """
    left, top, right, bottom = _reference(gold, frame)
    if molmo := _MOLMO.fullmatch(after_reasoning(response).strip()):
        x, y = (float(percent) * side / 100 for percent, side in zip(molmo.groups(), frame.size, strict=True))
    elif (points := _places(response, "point_2d", 2, frame)) and len(points) == 1:
        x, y = points[0]
    else:
        return False
    return left <= x <= right and top <= y <= bottom


def answered_boxes(response: str, frame: Frame) -> list[Box] | None:
    """The response's boxes in pixels of the original image, in its order; None where it is no answer.

    >>> answered_boxes('[{"bbox_2d": [10, 10, 20, 20], "label": "cat"}]', Frame(width=640, height=480))
    [(6.4, 4.8, 12.8, 9.6)]
    """
    places = _places(response, "bbox_2d", 4, frame)
    if places is None or not all(_is_ordered(place) for place in places):
        return None
    return [(left, top, right, bottom) for left, top, right, bottom in places]


def iou(one: Box, other: Box) -> float:
    """The area that both boxes share, of the area that they cover together: 0 to 1.

    >>> iou((0, 0, 2, 2), (1, 0, 3, 2))
    0.3333333333333333
    """
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    together = _area(one) + _area(other) - shared
    return shared / together if together else 0.0  # areas of next to nothing round to 0


def _places(response: str, key: str, num_values: int, frame: Frame) -> list[tuple[float, ...]] | None:
    """The values under `key` of every object in the response, in pixels of the original image; None if one is malformed."""
    try:
        value = response_json(response)
    except ValueError:
        return None
    items = value if isinstance(value, list) else [value]
    found: list[Any] = [item.get(key) if isinstance(item, dict) else None for item in items]
    if not all(_are_numbers(values, num_values, frame.limits) for values in found):
        return None
    return [tuple(v * frame.size[axis % 2] / frame.limits[axis % 2] for axis, v in enumerate(values)) for values in found]


def _are_numbers(values: Any, num_values: int, limits: tuple[int, int]) -> bool:
    """Whether these are so many numbers (no booleans), x and y in turn, from 0 to their limits."""
    if (
        not isinstance(values, list | tuple)
        or len(values) != num_values
        or any(type(value) not in (int, float) for value in values)
    ):
        return False
    return all(0 <= value <= limits[axis % 2] for axis, value in enumerate(values))


def _reference(gold: Sequence[float], frame: Frame) -> Box:
    if not _are_numbers(gold, 4, frame.size) or not _is_ordered(gold):
        raise BadRow(f"the reference {gold!r} is not a box [x1, y1, x2, y2] inside an image of {frame.size}")
    left, top, right, bottom = gold
    return left, top, right, bottom


def _is_ordered(box: Sequence[float]) -> bool:
    return box[0] < box[2] and box[1] < box[3]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _num_matched(close: list[list[int]]) -> int:
    """The size of the largest one-to-one matching. close: for each reference, the boxes that it may be matched with."""
    owner: dict[int, int] = {}

    def place(gold: int, tried: set[int]) -> bool:
        """Whether the reference gets a box, where those who have one may be moved to another."""
        for box in close[gold]:
            if box not in tried:
                tried.add(box)
                if box not in owner or place(owner[box], tried):
                    owner[box] = gold
                    return True
        return False

    return sum(place(gold, set()) for gold in range(len(close)))

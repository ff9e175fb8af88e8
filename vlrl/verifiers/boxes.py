"""Scores boxes and points in an image: a box by its IoU, several boxes by F1, a point by the box that contains it.

A response gives them as JSON (structured.py describes how the JSON is found): an object with "bbox_2d": [x1, y1, x2, y2] or
"point_2d": [x, y], or a list of these. Other keys, such as "label", are ignored. One malformed item (not all numbers, x1 >= x2,
y1 >= y2, outside of the image) invalidates the whole response. References are in pixels of the original image.
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
"""A model's coordinates: in thousandths of width and height (Qwen3-VL), or in pixels of the resized image that it saw
(Qwen2.5-VL)."""

_PERCENT = r"([0-9]{1,3}(?:\.[0-9]{1,6})?)"
_MOLMO = re.compile(rf'<points? x="{_PERCENT}" y="{_PERCENT}"(?: alt="[^"<>]*")?>[^<>]*</points?>')


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """An image's size and the coordinate convention of the answers.

    width, height: size of the original image, in pixels.
    resized: width and height of the image that the model saw; required for "pixels", not allowed for "relative_1000".
    """

    width: int
    height: int
    convention: Convention = "relative_1000"
    resized: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.convention not in get_args(Convention):
            raise BadRow(f"unknown convention {self.convention!r}; known: {', '.join(get_args(Convention))}")
        if (self.convention == "pixels") != (self.resized is not None):
            raise BadRow(
                f"convention {self.convention!r} with resized={self.resized}: 'pixels' needs a size, 'relative_1000' none"
            )
        if len(self.limits) != 2 or any(type(side) is not int or side < 1 for side in (*self.size, *self.limits)):
            raise BadRow(f"the image size is {self.size}, resized to {self.resized}; sides must be integers of 1 or more")

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def limits(self) -> tuple[int, int]:
        """The greatest x and y in an answer."""
        return (1000, 1000) if self.resized is None else self.resized

    @property
    def whole(self) -> Box:
        return 0, 0, self.width, self.height


def box_iou(response: str, gold: Sequence[float], frame: Frame) -> float:
    """The IoU of the response's box with the reference; 0 if the response has no box or several.

    A box around the whole image overlaps any reference, so use `box_gain` as a reward.

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
    """The box's IoU rescaled so that a box around the whole image scores 0 and a perfect box scores 1; never below 0.

    A box around everything earns nothing, even if the reference fills most of the image. Raises BadRow if it fills all of it.

    >>> frame = Frame(width=100, height=100)
    >>> box_gain('{"bbox_2d": [0, 0, 1000, 1000]}', (0, 0, 100, 75), frame)
    0.0
    >>> box_gain('{"bbox_2d": [0, 0, 500, 750]}', (0, 0, 50, 100), frame)  # an IoU of 0.75; the whole image has 0.5
    0.5
    """
    floor = iou(_reference(gold, frame), frame.whole)
    if floor == 1:
        raise BadRow(f"the reference box {gold} is the whole image, so no answer can improve on it")
    return max(0.0, (box_iou(response, gold, frame) - floor) / (1 - floor))


def boxes_f1(response: str, golds: Sequence[Sequence[float]], frame: Frame, *, threshold: float = 0.5) -> float:
    """F1 of the response's boxes. Each box matches at most one reference, and each reference at most one box.

    The matching is the largest one over pairs with an IoU of at least `threshold`, so a repeated box is a false positive. If
    there is no reference, an empty list scores 1 and anything else 0.

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
    """Whether the response has exactly one point, inside the reference box or on its border.

    Also accepts Molmo's element as the whole answer; its coordinates are percentages of the image under any convention.

    >>> frame = Frame(width=1000, height=800)
    >>> point_in_box('{"point_2d": [100, 250]}', (100, 200, 300, 400), frame)
    True
    >>> point_in_box('<points x="20.0" y="37.5" alt="cat">cat</points>', (100, 200, 300, 400), frame)
    True
    """
    left, top, right, bottom = _reference(gold, frame)
    if molmo := _MOLMO.fullmatch(after_reasoning(response).strip()):
        x, y = (float(percent) * side / 100 for percent, side in zip(molmo.groups(), frame.size, strict=True))
    elif (points := _coordinates(response, "point_2d", 2, frame)) and len(points) == 1:
        x, y = points[0]
    else:
        return False
    return left <= x <= right and top <= y <= bottom


def answered_boxes(response: str, frame: Frame) -> list[Box] | None:
    """The response's boxes in its order, in pixels of the original image; None if the response is invalid.

    >>> answered_boxes('[{"bbox_2d": [10, 10, 20, 20], "label": "cat"}]', Frame(width=640, height=480))
    [(6.4, 4.8, 12.8, 9.6)]
    """
    boxes = _coordinates(response, "bbox_2d", 4, frame)
    if boxes is None or not all(_is_ordered(box) for box in boxes):
        return None
    return [(left, top, right, bottom) for left, top, right, bottom in boxes]


def iou(one: Box, other: Box) -> float:
    """Intersection over union: the shared area divided by the area that the boxes cover together, 0 to 1.

    >>> iou((0, 0, 2, 2), (1, 0, 3, 2))
    0.3333333333333333
    """
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    together = _area(one) + _area(other) - shared
    return shared / together if together else 0.0  # tiny areas may round to 0


def _coordinates(response: str, key: str, num_values: int, frame: Frame) -> list[tuple[float, ...]] | None:
    """The values of `key` in every object of the response, in pixels of the original image; None if one is malformed."""
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
    """Whether `values` are `num_values` numbers (not booleans), alternating x and y, from 0 to their limits."""
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
    """The size of the largest one-to-one matching. close: for each reference, the boxes that may match it."""
    owner: dict[int, int] = {}

    def match(gold: int, tried: set[int]) -> bool:
        """Whether the reference gets a box. Other references may move to another box for it."""
        for box in close[gold]:
            if box not in tried:
                tried.add(box)
                if box not in owner or match(owner[box], tried):
                    owner[box] = gold
                    return True
        return False

    return sum(match(gold, set()) for gold in range(len(close)))

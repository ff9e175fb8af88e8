"""Scores boxes and points in an image: a box by its IoU, several boxes by F1, a point by the box that contains it.

A response gives them as JSON (structured.py describes how the JSON is found): an object with "bbox_2d": [x1, y1, x2, y2] or
"point_2d": [x, y], or a list of these. Other keys, such as "label", are ignored. One malformed item (not all numbers, x1 >= x2,
y1 >= y2, outside of the image) invalidates the whole response. References are in pixels of the original image.

If a response has one <answer>...</answer>, only its content counts. Under the convention "relative_1000" the marks that Qwen2-VL
and Qwen-VL were trained on are as good as JSON, if they are the whole answer: <|box_start|>(x1,y1),(x2,y2)<|box_end|>,
<box>(x1,y1),(x2,y2)</box>, with one pair for a point, each with or without a label before it. Coordinates without a key or marks
are refused, because their order would be a guess.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from vlrl.common.responses import after_reasoning
from vlrl.tasks import BadRow
from vlrl.types import Convention, Row
from vlrl.verifiers.structured import response_json

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, in pixels of the original image."""

_FEWEST = 20
_PERCENT = r"([0-9]{1,3}(?:\.[0-9]{1,6})?)"
_MOLMO = re.compile(rf'<points? x="{_PERCENT}" y="{_PERCENT}"(?: alt="[^"<>]*")?>[^<>]*</points?>')
_PAIR = r"\(\s?([0-9]{1,4}(?:\.[0-9]{1,6})?)\s?,\s?([0-9]{1,4}(?:\.[0-9]{1,6})?)\s?\)"
_LABEL = r"(?:<\|object_ref_start\|>[^<>]*<\|object_ref_end\|>|<ref>[^<>]*</ref>)?"
_MARKED = re.compile(  # Qwen2-VL's marks, then Qwen-VL's
    rf"\s*{_LABEL}\s*(?:<\|box_start\|>{_PAIR}(?:,\s?{_PAIR})?<\|box_end\|>|<box>{_PAIR}(?:,\s?{_PAIR})?</box>)\s*,?"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """An image's size and the coordinate convention of the answers. A task makes it with `Frame.of`.

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

    @classmethod
    def of(cls, row: Row) -> "Frame":
        """For the answers to a row with one picture, whose size is in its meta, in the convention of the model that answers.

        >>> Frame.of(Row(meta={"width": 640, "height": 480})).limits
        (1000, 1000)
        >>> Frame.of(Row(meta={"width": 640, "height": 480}, seen=((280, 196),))).limits
        (280, 196)
        """
        seen = (int(row.seen[0][0]), int(row.seen[0][1])) if row.seen else None
        convention: Convention = "pixels" if seen else "relative_1000"
        return cls(width=row.meta["width"], height=row.meta["height"], convention=convention, resized=seen)

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
    floor = _floor(_reference(gold, frame), frame)
    return max(0.0, (box_iou(response, gold, frame) - floor) / (1 - floor))


def boxes_f1(response: str, golds: Sequence[Sequence[float]], frame: Frame, *, threshold: float = 0.5) -> float:
    """F1 of the response's boxes. Each box matches at most one reference, and each reference at most one box.

    The matching is the largest one over pairs with an IoU of at least `threshold`, so a repeated box is a false positive. If a
    box around the whole image would reach the threshold, the gain must reach it instead, as in `box_gain`. If there is no
    reference, an empty list scores 1 and anything else 0. Raises BadRow if a reference is the whole image.

    >>> frame = Frame(width=1000, height=1000)
    >>> boxes_f1('[{"bbox_2d": [0, 0, 9, 9]}, {"bbox_2d": [0, 0, 9, 9]}]', [(0, 0, 9, 9), (50, 50, 60, 60)], frame)
    0.5
    >>> boxes_f1('{"bbox_2d": [0, 0, 1000, 1000]}', [(100, 50, 950, 950)], frame)  # an IoU of 0.765
    0.0
    """
    expected = [_reference(gold, frame) for gold in golds]
    needed = [_needed_iou(gold, frame, threshold) for gold in expected]
    boxes = answered_boxes(response, frame)
    if boxes is None:
        return 0.0
    if not boxes and not expected:
        return 1.0
    close = [
        [index for index, box in enumerate(boxes) if iou(box, gold) >= least]
        for gold, least in zip(expected, needed, strict=True)
    ]
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
    if molmo := _MOLMO.fullmatch(_answer(response).strip()):
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


def guessed_boxes(places: Sequence[tuple[Sequence[Sequence[float]], Frame]], *, threshold: float = 0.5) -> list[str]:
    """For each row, given as its reference boxes and frame, the guess that is right without a look at the image; "" if none.

    The guesses are one box around the whole image, and the mean box of the other rows if they have at least 20 boxes. A guess is
    right if F1 at the plain `threshold` is at least 0.5.

    >>> frame = Frame(width=100, height=100)
    >>> guessed_boxes([([(0, 0, 100, 60)], frame), ([(0, 0, 30, 30)], frame)])
    ['a box around the whole image', '']
    """
    mean = _means_of_others([[_shares(gold, frame) for gold in golds] for golds, frame in places])
    found = []
    for (golds, frame), shares in zip(places, mean, strict=True):
        guesses = {"a box around the whole image": frame.whole}
        if shares:
            left, top, right, bottom = (share * side for share, side in zip(shares, frame.size * 2, strict=True))
            guesses["the mean box of the other rows"] = left, top, right, bottom
        names = [name for name, box in guesses.items() if any(iou(box, _reference(gold, frame)) >= threshold for gold in golds)]
        found.append(names[0] if names and 2 / (1 + len(golds)) >= 0.5 else "")
    return found


def guessed_points(places: Sequence[tuple[Sequence[float], Frame]]) -> list[str]:
    """Like `guessed_boxes`, for rows with one box that contains the point: the guesses are the image's centre, and the mean
    centre of the other rows' boxes if they are at least 20.

    >>> frame = Frame(width=100, height=100)
    >>> guessed_points([((10, 10, 60, 60), frame), ((0, 0, 30, 30), frame)])
    ['the centre of the image', '']
    """
    boxes = [_shares(gold, frame) for gold, frame in places]
    centres = [((left + right) / 2, (top + bottom) / 2) for left, top, right, bottom in boxes]
    found = []
    for (left, top, right, bottom), mean in zip(boxes, _means_of_others([[centre] for centre in centres]), strict=True):
        guesses = {"the centre of the image": (0.5, 0.5), "the mean centre of the other rows' boxes": mean}
        names = [name for name, point in guesses.items() if point and left <= point[0] <= right and top <= point[1] <= bottom]
        found.append(names[0] if names else "")
    return found


def _means_of_others(of_rows: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """For each row, the mean of all other rows' vectors, by coordinate; empty if they are too few to have a usual place."""
    sums = [[sum(axis) for axis in zip(*vectors, strict=True)] for vectors in of_rows]
    totals = [sum(axis) for axis in zip(*filter(None, sums), strict=True)]
    num = sum(map(len, of_rows))
    return [
        [(total - own) / (num - len(vectors)) for total, own in zip(totals, row or [0.0] * len(totals), strict=True)]
        if num - len(vectors) >= _FEWEST
        else []
        for vectors, row in zip(of_rows, sums, strict=True)
    ]


def _shares(gold: Sequence[float], frame: Frame) -> list[float]:
    """The box in shares of the image's width and height."""
    return [edge / side for edge, side in zip(_reference(gold, frame), frame.size * 2, strict=True)]


def _floor(gold: Box, frame: Frame) -> float:
    """The whole image's IoU with the reference. Raises BadRow if they are the same."""
    floor = iou(gold, frame.whole)
    if floor == 1:
        raise BadRow(f"the reference box {gold} is the whole image, so no answer can improve on it")
    return floor


def _needed_iou(gold: Box, frame: Frame, threshold: float) -> float:
    """The IoU that a box needs: the threshold, or if the whole image reaches it, that share of the way from there to 1."""
    floor = _floor(gold, frame)
    return threshold if floor < threshold else floor + threshold * (1 - floor)


def _answer(response: str) -> str:
    """The part of the response with the coordinates: the content of <answer>...</answer>, or all; empty for several answers."""
    text = after_reasoning(response)
    before, opening, rest = text.partition("<answer>")
    inside, closing, after = rest.partition("</answer>")
    if not opening and "</answer>" not in text:
        return text
    is_one = opening and closing and not any("answer>" in part for part in (before, inside, after))
    return inside if is_one else ""


def _coordinates(response: str, key: str, num_values: int, frame: Frame) -> list[tuple[float, ...]] | None:
    """The values of `key` in every object of the response, in pixels of the original image; None if one is malformed."""
    answer = _answer(response)
    is_marked = frame.convention == "relative_1000" and answer.lstrip().startswith("<")
    found = _marked(answer) if is_marked else _in_json(answer, key)
    if found is None or not all(_are_numbers(values, num_values, frame.limits) for values in found):
        return None
    return [tuple(v * frame.size[axis % 2] / frame.limits[axis % 2] for axis, v in enumerate(values)) for values in found]


def _in_json(answer: str, key: str) -> list[Any] | None:
    try:
        value = response_json(answer)
    except ValueError:
        return None
    items = value if isinstance(value, list) else [value]
    return [item.get(key) if isinstance(item, dict) else None for item in items]


def _marked(answer: str) -> list[Any] | None:
    """The numbers between each pair of marks; None if the answer is anything more than that."""
    found: list[Any] = []
    place, end = 0, len(answer.rstrip())
    while place < end:
        if not (item := _MARKED.match(answer, place)):
            return None
        found.append([float(digits) for digits in item.groups() if digits])
        place = item.end()
    return found


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

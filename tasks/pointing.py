"""pointing: one point on the requested object. The row's meta has width, height and box. Rows: data_recipes/pointing.py.

The prompt asks for Qwen-VL's JSON, in the coordinates of the run's model; vlrl/verifiers/boxes.py lists the other forms that
count. The build leaves out rows in which the centre of the picture is right.
"""

from collections.abc import Sequence
from dataclasses import replace

from vlrl.types import Message, Row, Score
from vlrl.verifiers.boxes import Frame, guessed_points, point_in_box

INSTRUCTION = 'Answer with JSON alone: {"point_2d": [x, y]}, coordinates from 0 to 1000.'


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    return Score(reward=float(point_in_box(response, row.meta["box"], Frame.of(row))))


def guessed(rows: Sequence[Row]) -> list[str]:
    return guessed_points([(row.meta["box"], Frame.of(row)) for row in rows])


CAT = Row(question="Point to the cat.", meta={"width": 1000, "height": 800, "box": [100, 200, 300, 400]})
SEEN = replace(CAT, seen=((280, 224),))  # by a model that gives places in pixels of the resized picture
EXAMPLES = [
    ('{"point_2d": [200, 375]}', CAT, 1.0),
    ('```json\n[{"point_2d": [100, 250], "label": "cat"}]\n```', CAT, 1.0),
    ('{"point_2d": [400, 375]}', CAT, 0.0),
    ('[{"point_2d": [200, 375]}, {"point_2d": [500, 500]}]', CAT, 0.0),  # two points instead of one
    ("200, 375", CAT, 0.0),
    ('{"point_2d": [56, 84]}', SEEN, 1.0),
    ('{"point_2d": [200, 375]}', SEEN, 0.0),
    ("<|box_start|>(200,375)<|box_end|>", CAT, 1.0),  # Qwen2-VL's marks
]

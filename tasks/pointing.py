"""pointing: one point on the requested object, in Qwen3-VL's JSON. The row's meta has width, height and box."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.boxes import Frame, point_in_box

INSTRUCTION = 'Answer with JSON alone: {"point_2d": [x, y]}, coordinates from 0 to 1000.'


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    frame = Frame(width=row.meta["width"], height=row.meta["height"])
    return Score(reward=float(point_in_box(response, row.meta["box"], frame)))


CAT = Row(question="Point to the cat.", meta={"width": 1000, "height": 800, "box": [100, 200, 300, 400]})
EXAMPLES = [
    ('{"point_2d": [200, 375]}', CAT, 1.0),
    ('```json\n[{"point_2d": [100, 250], "label": "cat"}]\n```', CAT, 1.0),
    ('{"point_2d": [400, 375]}', CAT, 0.0),
    ('[{"point_2d": [200, 375]}, {"point_2d": [500, 500]}]', CAT, 0.0),  # two points instead of one
    ("200, 375", CAT, 0.0),
]

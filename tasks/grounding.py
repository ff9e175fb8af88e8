"""grounding: a box for every object of a kind, in Qwen3-VL's JSON, scored by F1. Rows: data_recipes/bccd_grounding.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.boxes import Frame, answered_boxes, boxes_f1

INSTRUCTION = 'Answer with JSON alone: [{"bbox_2d": [x1, y1, x2, y2], "label": "..."}], coordinates from 0 to 1000.'


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    """meta: the image's width and height, and the objects' boxes, all in pixels."""
    frame = Frame(width=row.meta["width"], height=row.meta["height"])
    boxes = answered_boxes(response, frame)
    return Score(reward=boxes_f1(response, row.meta["boxes"], frame), parts={"json": float(boxes is not None)})


TWO = Row(meta={"width": 1000, "height": 500, "boxes": [[0, 0, 100, 100], [200, 200, 300, 300]]})
EXAMPLES = [
    ('```json\n[{"bbox_2d": [0, 0, 100, 200]}, {"bbox_2d": [200, 400, 300, 600]}]\n```', TWO, 1.0),
    ('[{"bbox_2d": [0, 0, 100, 200]}]', TWO, 2 / 3),
    ('[{"bbox_2d": [0, 0, 100, 200]}, {"bbox_2d": [0, 0, 100, 200]}]', TWO, 0.5),  # a repeated box
    ('[{"bbox_2d": [0, 0, 1000, 1000]}]', TWO, 0.0),
    ("They are at 0, 0, 100, 200.", TWO, 0.0),
]

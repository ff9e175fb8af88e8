"""grounding: a box for every object of a kind, scored by F1 at an IoU of 0.5. Rows: data_recipes/bccd_grounding.py.

The prompt asks for Qwen-VL's JSON, in the coordinates of the run's model; vlrl/verifiers/boxes.py lists the other forms that
count. If an object fills half of the picture or more, a box around the whole picture earns nothing; the build leaves such rows
out.
"""

from collections.abc import Sequence
from dataclasses import replace

from vlrl.types import Message, Row, Score
from vlrl.verifiers.boxes import Frame, answered_boxes, boxes_f1, guessed_boxes

INSTRUCTION = 'Answer with JSON alone: [{"bbox_2d": [x1, y1, x2, y2], "label": "..."}], coordinates from 0 to 1000.'


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    """meta: the image's width and height, and the objects' boxes, all in pixels."""
    boxes = answered_boxes(response, Frame.of(row))
    return Score(reward=boxes_f1(response, row.meta["boxes"], Frame.of(row)), parts={"readable": float(boxes is not None)})


def guessed(rows: Sequence[Row]) -> list[str]:
    return guessed_boxes([(row.meta["boxes"], Frame.of(row)) for row in rows])


LARGE = Row(meta={"width": 1000, "height": 1000, "boxes": [[100, 50, 950, 950]]})
TWO = Row(meta={"width": 1000, "height": 500, "boxes": [[0, 0, 100, 100], [200, 200, 300, 300]]})
SEEN = replace(TWO, seen=((280, 140),))  # by a model that gives places in pixels of the resized picture
EXAMPLES = [
    ('```json\n[{"bbox_2d": [0, 0, 100, 200]}, {"bbox_2d": [200, 400, 300, 600]}]\n```', TWO, 1.0),
    ('[{"bbox_2d": [0, 0, 100, 200]}]', TWO, 2 / 3),
    ('[{"bbox_2d": [0, 0, 100, 200]}, {"bbox_2d": [0, 0, 100, 200]}]', TWO, 0.5),  # a repeated box
    ('[{"bbox_2d": [0, 0, 1000, 1000]}]', TWO, 0.0),
    ("They are at 0, 0, 100, 200.", TWO, 0.0),
    ('<answer>[{"bbox_2d": [0, 0, 100, 200]}]</answer>', TWO, 2 / 3),
    ("<|box_start|>(0,0),(100,200)<|box_end|><|box_start|>(200,400),(300,600)<|box_end|>", TWO, 1.0),  # Qwen2-VL's marks
    ('[{"bbox_2d": [0, 0, 1000, 1000]}]', LARGE, 0.0),  # an IoU of 0.765
    ('[{"bbox_2d": [100, 50, 950, 950]}]', LARGE, 1.0),
    ('[{"bbox_2d": [0, 0, 28, 28]}, {"bbox_2d": [56, 56, 84, 84]}]', SEEN, 1.0),
    ('[{"bbox_2d": [0, 0, 100, 200]}, {"bbox_2d": [200, 400, 300, 600]}]', SEEN, 0.0),
]

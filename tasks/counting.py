"""counting: how many of something the pictures show, in \\boxed{}. Rows: data_recipes/counting.py, bccd_counting.py.

A count is digits or an English word up to twenty. 4.0 is 4, and the thing counted may follow (4 circles). A sentence such as
"There are 4 circles" is wrong even in the box, because sentences also deny and hedge: the instruction asks for the count alone.
"""

from vlrl.tasks import BadRow
from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.text import count

INSTRUCTION = "Answer in \\boxed{}."


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question} {INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer, expected = last_boxed(response), count(row.answer)
    if expected is None:
        raise BadRow(f"the reference answer {row.answer!r} is not a count")
    correct = answer is not None and count(answer) == expected
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


EXAMPLES = [
    ("\\boxed{4}", Row(answer="4"), 1.0),
    ("Two and two: \\boxed{4}", Row(answer="4"), 1.0),
    ("\\boxed{4.0}", Row(answer="4"), 1.0),
    ("\\boxed{\\text{Four circles.}}", Row(answer="4"), 1.0),
    ("\\boxed{3}", Row(answer="4"), 0.0),
    ("\\boxed{There are 4 circles}", Row(answer="4"), 0.0),
    ("\\boxed{3 to 5}", Row(answer="4"), 0.0),
    ("\\boxed{2+2}", Row(answer="4"), 0.0),
    ("There are 4.", Row(answer="4"), 0.0),
]

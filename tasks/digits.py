"""digits: the value of a handwritten digit, in \\boxed{}. Rows: data_recipes/digits.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed, same_number

INSTRUCTION = "Answer in \\boxed{}."


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question} {INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and same_number(answer, row.answer)
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


EXAMPLES = [
    ("\\boxed{7}", Row(answer="7"), 1.0),
    ("A bar and a stroke: \\boxed{ 7 }", Row(answer="7"), 1.0),
    ("\\boxed{1}", Row(answer="7"), 0.0),
    ("\\boxed{1, 7}", Row(answer="7"), 0.0),
    ("7", Row(answer="7"), 0.0),
]

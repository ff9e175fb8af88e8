"""counting: the number of red circles in one or two scenes, in \\boxed{}. Rows: data_recipes/counting.py."""

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
    ("\\boxed{4}", Row(answer="4"), 1.0),
    ("Two and two: \\boxed{4}", Row(answer="4"), 1.0),
    ("\\boxed{3}", Row(answer="4"), 0.0),
    ("\\boxed{3 to 5}", Row(answer="4"), 0.0),
    ("\\boxed{2+2}", Row(answer="4"), 0.0),
    ("There are 4.", Row(answer="4"), 0.0),
]

"""multiple_choice: a question with lettered options, with or without pictures. Rows: data_recipes/bbh.py, puzzlevqa.py."""

from string import ascii_uppercase

from vlrl.tasks import BadRow
from vlrl.types import Message, Row, Score
from vlrl.verifiers.choices import choice, same_choice

INSTRUCTION = "Please reason step by step, and put the letter of the right option within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    options = "\n".join(f"({letter}) {option}" for letter, option in zip(ascii_uppercase, row.meta["options"], strict=False))
    text = f"{row.question}\nOptions:\n{options}\n{INSTRUCTION}"
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def verify(response: str, row: Row) -> Score:
    if "options" not in row.meta:
        raise BadRow(f"row {row.key!r} has no options in its meta")
    picked = choice(response, row.meta["options"])
    return Score(
        reward=float(same_choice(response, row.answer, row.meta["options"])), parts={"picked": float(picked is not None)}
    )


SHAPES = Row(question="Which is next?", answer="D", meta={"options": ["hexagon", "triangle", "square", "pentagon"]})
EXAMPLES = [
    ("\\boxed{D}", SHAPES, 1.0),
    ("\\boxed{(D) pentagon}", SHAPES, 1.0),
    ("\\boxed{pentagon}", SHAPES, 1.0),
    ("\\boxed{A or D}", SHAPES, 0.0),
    ("\\boxed{ABCD}", SHAPES, 0.0),
    ("\\boxed{A} no, \\boxed{not D}", SHAPES, 0.0),
]

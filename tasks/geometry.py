"""geometry: a question about a figure, answered by a lettered option or an expression. Rows: geometry3k, mathvision."""

from string import ascii_uppercase

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.choices import same_choice
from vlrl.verifiers.symbolic import same_expression

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    options = [f"({letter}) {option}" for letter, option in zip(ascii_uppercase, row.meta.get("options", []), strict=False)]
    text = "\n".join([row.question, *options, INSTRUCTION])
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def verify(response: str, row: Row) -> Score:
    answer, options = last_boxed(response), row.meta.get("options", [])
    if options:
        correct = answer is not None and same_choice(response, row.answer, options)
    else:
        correct = answer is not None and same_expression(answer, row.answer)
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


ANGLE = Row(question="How large is the angle?", answer="B", meta={"options": ["30", "60", "90"]})
EXAMPLES = [
    ("\\boxed{2\\sqrt{221}}", Row(question="Find x.", answer="2 \\sqrt { 221 }"), 1.0),
    ("\\boxed{60^\\circ}", Row(question="Find x.", answer="60"), 1.0),
    ("\\boxed{B}", ANGLE, 1.0),
    ("\\boxed{60}", ANGLE, 1.0),
    ("\\boxed{A}", ANGLE, 0.0),
    ("\\boxed{29.73}", Row(question="Find x.", answer="2 \\sqrt { 221 }"), 0.0),
    ("The answer is B.", ANGLE, 0.0),
]

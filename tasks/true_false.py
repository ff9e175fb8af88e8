"""true_false: whether a statement about a picture or a text is true; yes and no are accepted. Rows: data_recipes/nlvr.py."""

from vlrl.tasks import BadRow
from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.choices import yes_no

INSTRUCTION = "Please reason step by step, and put True or False within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    expected = yes_no(row.answer)
    if expected is None:
        raise BadRow(f"the reference answer {row.answer!r} is neither true nor false")
    answer = last_boxed(response)
    correct = answer is not None and yes_no(answer) is expected
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


EXAMPLES = [
    ("\\boxed{True}", Row(answer="true"), 1.0),
    ("\\boxed{yes.}", Row(answer="true"), 1.0),
    ("\\boxed{False}", Row(answer="true"), 0.0),
    ("\\boxed{true or false}", Row(answer="true"), 0.0),
    ("True", Row(answer="true"), 0.0),
]

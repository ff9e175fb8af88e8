"""reading (OCR): the text in a picture, scored by its similarity to the nearest text of the row's meta["texts"].

\\text{...}, bold and other marks around the text are ignored, unless they are in the picture's text too.
"""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.text import anls

INSTRUCTION = "Put the text, exactly as it stands there, within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    texts = row.meta.get("texts", [row.answer])
    return Score(reward=anls(answer or "", texts), parts={"boxed": float(answer is not None)})


EXAMPLES = [
    ("\\boxed{No Entry}", Row(answer="NO ENTRY"), 1.0),
    ("\\boxed{\\text{No Entry}}", Row(answer="NO ENTRY"), 1.0),
    ("\\boxed{hallo}", Row(answer="hello"), 0.8),
    ("\\boxed{exit}", Row(answer="NO ENTRY"), 0.0),
    ("NO ENTRY", Row(answer="NO ENTRY"), 0.0),
]

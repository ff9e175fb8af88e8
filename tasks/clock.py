"""clock: the time on a clock, to the minute. Rows: data_recipes/clocks.py.

3:05 and 03:05 are the same. 3:05 pm and 15:05 are wrong, because the clock does not show the half of the day; so are words and
seconds.
"""

import re

from vlrl.tasks import BadRow
from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.dress import undress

INSTRUCTION = "Put the time as H:MM, on a clock of twelve hours, within \\boxed{}."
TIME = re.compile(r"0?([1-9]|1[0-2]):([0-5][0-9])", re.ASCII)


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer, gold = TIME.fullmatch(undress(last_boxed(response) or "")), TIME.fullmatch(row.answer)
    if gold is None:
        raise BadRow(f"the reference {row.answer!r} is not a time such as 3:05")
    correct = answer is not None and answer.groups() == gold.groups()
    return Score(reward=float(correct), parts={"time": float(answer is not None)})


EXAMPLES = [
    ("\\boxed{3:05}", Row(answer="3:05"), 1.0),
    ("\\boxed{03:05}", Row(answer="3:05"), 1.0),
    ("\\boxed{\\text{3:05}}", Row(answer="3:05"), 1.0),
    ("\\boxed{3:05 pm}", Row(answer="3:05"), 0.0),
    ("\\boxed{3:50}", Row(answer="3:05"), 0.0),
    ("\\boxed{15:05}", Row(answer="3:05"), 0.0),
    ("\\boxed{3:05 or 3:06}", Row(answer="3:05"), 0.0),
    ("3:05", Row(answer="3:05"), 0.0),
]

"""chart: a value read from a chart, within 5 % if it is a quantity. Rows: data_recipes/bars.py, chartqa.py, table_charts.py.

A unit after the value is ignored, and 3.5 million is 3,500,000. Percent is not a unit: 5% is 0.05, and for a reference of 5 it is
wrong. A fraction is its value (1/4 is 0.25). Years, counts and 0 are exact, and words are compared as words.
"""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.text import relaxed_number

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and relaxed_number(answer, row.answer, exact=row.meta.get("exact", False))
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


EXAMPLES = [
    ("\\boxed{1,290}", Row(answer="1234"), 1.0),
    ("\\boxed{\\text{1,290 people}}", Row(answer="1234"), 1.0),
    ("\\boxed{12.9\\%}", Row(answer="12.9"), 0.0),
    ("\\boxed{1300}", Row(answer="1234"), 0.0),
    ("\\boxed{2014}", Row(answer="2015"), 0.0),  # a year has no tolerance
    ("\\boxed{1100 to 1300}", Row(answer="1234"), 0.0),
    ("\\boxed{7}", Row(answer="7.2", meta={"exact": True}), 0.0),
]

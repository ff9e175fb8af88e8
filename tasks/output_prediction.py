"""output_prediction: what a Python function returns, as a literal in \\boxed{}. Rows: data_recipes/cruxeval.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.literals import same_literal

INSTRUCTION = "Please reason step by step, and put the value, as a Python literal, within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response, literal=True)
    correct = answer is not None and same_literal(answer, row.answer)
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


EXAMPLES = [
    ("\\boxed{['a', 'b']}", Row(answer='["a", "b"]'), 1.0),
    ("\\boxed{{'a': 1}}", Row(answer="{'a': 1}"), 1.0),
    ("\\boxed{{}}", Row(answer="{}"), 1.0),
    ("\\boxed{\\{'a': 1\\}}", Row(answer="{'a': 1}"), 1.0),  # as LaTeX writes braces
    ("\\boxed{('a', 'b')}", Row(answer="['a', 'b']"), 0.0),  # a tuple is not a list
    ("\\boxed{f('a')}", Row(answer="'a'"), 0.0),
    ("['a', 'b']", Row(answer="['a', 'b']"), 0.0),
]

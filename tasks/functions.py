"""functions: a Python function f(x) for a description; tests check its results. Rows: data_recipes/functions.py."""

from vlrl.tasks import BadRow
from vlrl.types import Message, Row, Score
from vlrl.verifiers.code import score_calls

INSTRUCTION = "Answer in Python."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question} {INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    if not row.meta.get("tests"):
        raise BadRow(f"row {row.key!r} has no tests in its meta; it needs at least one")
    return score_calls(response, row.meta["entry_point"], row.meta["tests"])


ADD_DOUBLE = Row(
    question="Write f(x): add 3, then multiply by 2.",
    meta={"entry_point": "f", "tests": [[[-3], 0], [[0], 6], [[7], 20]]},
)
EXAMPLES = [
    ("```python\ndef f(x):\n    return (x + 3) * 2\n```", ADD_DOUBLE, 1.0),
    ("def f(x): return 6 + x + x", ADD_DOUBLE, 1.0),
    ("```python\ndef f(x):\n    return x + 3 * 2\n```", ADD_DOUBLE, 0.0),
    ("```python\ndef g(x):\n    return (x + 3) * 2\n```", ADD_DOUBLE, 0.0),  # the wrong name
    ("```python\ndef f(x):\n    while True: pass\n```", ADD_DOUBLE, 0.0),
    ("f(x) = (x + 3) * 2", ADD_DOUBLE, 0.0),
]

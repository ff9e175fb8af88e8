"""code_tests: a Python function for a description; test code calls it in a jail. Rows: humaneval, mbpp."""

from vlrl.tasks import BadRow
from vlrl.types import Message, Row, Score
from vlrl.verifiers.code import score_tests

INSTRUCTION = "Answer with the whole function in one ```python block."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question}\n\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    if "entry_point" not in row.meta:
        raise BadRow(f"row {row.key!r} has no entry_point in its meta; set it to the function's name")
    return score_tests(
        response, row.meta["entry_point"], row.meta.get("tests", []), setup=row.meta.get("setup", ""), timeout_s=5.0
    )


ADD = Row(question="Add two numbers.", meta={"entry_point": "add", "tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]})
EXAMPLES = [
    ("```python\ndef add(a, b):\n    return a + b\n```", ADD, 1.0),
    ("```python\ndef add(a, b):\n    return 3\n```", ADD, 0.0),
    ("```python\nclass Yes(int):\n    __eq__ = lambda *_: True\ndef add(a, b):\n    return Yes()\n```", ADD, 0.0),
    ("It is a + b.", ADD, 0.0),
]

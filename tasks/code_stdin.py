"""code_stdin: a program that reads its input and prints its answer; it runs in a jail on every case of meta["cases"]."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.code import score_programs

INSTRUCTION = "Read the input from stdin and print the answer. Answer with the whole program in one ```python block."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question}\n\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    return score_programs(response, row.meta.get("cases", []), timeout_s=5.0)


SUM = Row(question="Print the sum of the numbers in a line.", meta={"cases": [["1 2\n", "3\n"], ["4 5 6\n", "15"]]})
EXAMPLES = [
    ("```python\nprint(sum(map(int, input().split())))\n```", SUM, 1.0),
    ("```python\nprint(3)\n```", SUM, 0.0),
    ("```python\nwhile True: pass\n```", Row(meta={"cases": [["", "3"]]}), 0.0),
    ("print(3)", SUM, 0.0),  # not in a code block
]

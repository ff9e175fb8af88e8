"""code_stdin: a program that reads its input and prints its answer; it runs in a jail on every case of meta["cases"].

A row may set meta["timeout_s"], the CPU seconds of a case, meta["memory_mb"], and meta["tolerance"], the allowed error of numbers
that are not whole. Without a tolerance, the one that the question states counts, or else none.
"""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.code import score_programs
from vlrl.verifiers.outputs import stated_tolerance

TIMEOUT_S, MEMORY_MB = 5.0, 1024  # programs often ask for a stack of 512 MB, and use little of it
INSTRUCTION = "Read the input from stdin and print the answer. Answer with the whole program in one ```python block."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question}\n\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    tolerance = row.meta.get("tolerance")
    return score_programs(
        response,
        row.meta.get("cases", []),
        tolerance=stated_tolerance(row.question) if tolerance is None else tolerance,
        timeout_s=row.meta.get("timeout_s", TIMEOUT_S),
        memory_mb=row.meta.get("memory_mb", MEMORY_MB),
    )


SUM = Row(question="Print the sum of the numbers in a line.", meta={"cases": [["1 2\n", "3\n"], ["4 5 6\n", "15"]]})
EXAMPLES = [
    ("```python\nprint(sum(map(int, input().split())))\n```", SUM, 1.0),
    ("```python\nprint(3)\n```", SUM, 0.0),
    ("```python\nwhile True: pass\n```", Row(meta={"cases": [["", "3"]]}), 0.0),
    ("```python\nimport os\nprint(sum(map(int, os.read(0, 99).split())))\nexit()\n```", SUM, 1.0),
    ("print(3)", SUM, 0.0),  # not in a code block
]

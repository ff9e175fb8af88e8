"""Cases of the project's own, a file of lines for each kind of answer.

expressions: a gold, answers that are mathematically the same, and answers that are not: what a slip of the pen, a hedge, or a
reading that overlooks half of the text would take for it. boxed: whole responses, where the box has to be found.
"""

import json
from pathlib import Path
from typing import Any


def cases(name: str) -> list[dict[str, Any]]:
    lines = (Path(__file__).parent / f"{name}.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines if line]

"""Cases of the project's own, a file of lines for each kind of answer.

expressions: a gold, answers that are mathematically the same, and answers that are not: what a slip of the pen, a hedge, or a
reading that overlooks half of the text would take for it. boxed: whole responses, where the box has to be found.
numbers, choices, literals: answers that are the gold or are not. texts, places: answers with what they are worth.
attacks: solutions that are wrong and try to be paid all the same, by what they reach for: the equality of what comes back, the
end of the process, patches of the interpreter, looks at the expected values, the pipes of a verdict, sizes; endless are those
that only a clock ends. honest: solutions that must be paid. All define `total(xs)`, the sum of a list, or `mean(xs)`, a float.
programs: programs on stdin that print the sum of the second line, ones that do not, and what a jail keeps them from. results:
functions f(x) that return what fakes 3 for every test, and modules whose f(x) is x + 1.
"""

import json
from pathlib import Path
from typing import Any


def cases(name: str) -> list[dict[str, Any]]:
    lines = (Path(__file__).parent / f"{name}.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines if line]

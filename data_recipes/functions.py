"""functions (code): writes a short Python function from its description. The tests are calls with their results."""

import random
from collections.abc import Iterator

from vlrl.data.shards import NewRow

SOURCE = "made by this script"
LICENCE = "Apache-2.0"
VERSION = 2
TRAIN, EVAL = 500, 150
DRAWN = 1950
OPERATIONS = {f"add {n}": f"x + {n}" for n in range(1, 10)}
OPERATIONS |= {f"subtract {n}": f"x - {n}" for n in range(1, 10)}
OPERATIONS |= {f"multiply by {n}": f"x * {n}" for n in range(2, 10)}
OPERATIONS |= {"square": "x ** 2", "negate": "-x"}
ARGUMENTS = (-3, 0, 1, 7, 12)


def raws(source: str | None, seed: int) -> Iterator[list[str]]:
    rng = random.Random(seed)
    for _ in range(DRAWN):
        yield rng.sample(list(OPERATIONS), 2)


def to_row(raw: list[str]) -> NewRow:
    """The demonstration has one step per line."""
    steps = "".join(f"    x = {OPERATIONS[operation]}\n" for operation in raw)
    code = f"def f(x):\n{steps}    return x"
    namespace: dict = {}
    exec(code, namespace)
    return NewRow(
        question=f"Write f(x): {', then '.join(raw)}.",
        meta={"entry_point": "f", "tests": [[[x], namespace["f"](x)] for x in ARGUMENTS]},
        response=f"```python\n{code}\n```",
    )

"""functions (code): a one-line Python function from its description, with calls and their results as the tests."""

import random
from collections.abc import Iterator

from vlrl.data.recipe import parse_options, write_splits
from vlrl.data.shards import NewRow

SOURCE = "made by this script"
LICENCE = "Apache-2.0"
VERSION = 1
OPERATIONS = {f"add {n}": f"({{}} + {n})" for n in range(1, 10)}
OPERATIONS |= {f"subtract {n}": f"({{}} - {n})" for n in range(1, 10)}
OPERATIONS |= {f"multiply by {n}": f"({{}} * {n})" for n in range(2, 10)}
OPERATIONS |= {"square": "({} ** 2)", "negate": "(-{})"}
ARGUMENTS = (-3, 0, 1, 7, 12)


def raws(seed: int, num: int) -> Iterator[list[str]]:
    rng = random.Random(seed)
    for _ in range(num):
        yield rng.sample(list(OPERATIONS), rng.choice((2, 3)))


def to_row(raw: list[str]) -> NewRow | None:
    expression = "x"
    for operation in raw:
        expression = OPERATIONS[operation].format(expression)
    expression = expression[1:-1]  # the outermost brackets
    tests = [[[x], eval(expression, {"x": x})] for x in ARGUMENTS]
    return NewRow(
        question=f"Write f(x): {', then '.join(raw)}.",
        meta={"entry_point": "f", "tests": tests},
        response=f"```python\ndef f(x):\n    return {expression}\n```",
    )


def main() -> None:
    options = parse_options(__doc__, train=2000, eval=200)
    rows = (to_row(raw) for raw in raws(options.seed, num=2 * (options.train + options.eval)))
    write_splits(options, rows, source=SOURCE, licence=LICENCE, recipe="functions", recipe_version=VERSION)


if __name__ == "__main__":
    main()

"""chain_sum (math): sums and differences of two small numbers from reasoning-gym, worked out digit by digit."""

from collections.abc import Iterator, Mapping
from typing import Any

import reasoning_gym

from vlrl.data.recipe import parse_options, write_splits
from vlrl.data.shards import NewRow

SOURCE = "reasoning-gym 0.1.25, chain_sum"
LICENCE = "Apache-2.0"
VERSION = 1


def raws(seed: int) -> Iterator[Mapping[str, Any]]:
    ranges = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}
    yield from reasoning_gym.create_dataset("chain_sum", size=8000, seed=seed, **ranges)


def to_row(raw: Mapping[str, Any]) -> NewRow | None:
    """None: a negative answer."""
    answer = raw["answer"]
    if int(answer) < 0:
        return None
    expression = raw["metadata"]["expression"]
    return NewRow(question=f"{expression} = ?", answer=answer, response=f"{working(expression)} \\boxed{{{answer}}}")


def working(expression: str) -> str:
    """The sum or difference, units first, with what is carried or borrowed.

    >>> working("47 + 38"), working("42 - 17")
    ('7+8=15, 4+3+1=8', '12-7=5, 4-1-1=2')
    """
    left, sign, right = expression.split()
    (a, b), (c, d) = divmod(int(left), 10), divmod(int(right), 10)
    if sign == "+":
        carry = int(b + d > 9)
        return f"{b}+{d}={b + d}, {a}+{c}{'+1' * carry}={a + c + carry}"
    borrow = int(b < d)
    b += 10 * borrow
    return f"{b}-{d}={b - d}, {a}-{c}{'-1' * borrow}={a - c - borrow}"


def main() -> None:
    options = parse_options(__doc__, train=2000, eval=200)
    rows = (to_row(raw) for raw in raws(options.seed))
    write_splits(options, rows, source=SOURCE, licence=LICENCE, recipe="chain_sum", recipe_version=VERSION)


if __name__ == "__main__":
    main()

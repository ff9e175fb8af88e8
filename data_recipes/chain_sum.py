"""chain_sum (math): reasoning-gym's sums of two numbers from 10 to 50 without carries, solved digit by digit."""

from collections.abc import Iterator, Mapping
from typing import Any

import reasoning_gym

from vlrl.data.recipe import Drop
from vlrl.data.shards import NewRow

SOURCE = "reasoning-gym 0.1.25, chain_sum"
LICENCE = "Apache-2.0"
VERSION = 2
TRAIN, EVAL = 700, 150
LARGEST = 50


def raws(source: str | None, seed: int) -> Iterator[Mapping[str, Any]]:
    ranges = {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}
    yield from reasoning_gym.create_dataset("chain_sum", size=40000, seed=seed, **ranges)


def to_row(raw: Mapping[str, Any]) -> NewRow:
    expression, answer = raw["metadata"]["expression"], raw["answer"]
    left, sign, right = expression.split()
    (a, b), (c, d) = divmod(int(left), 10), divmod(int(right), 10)
    if sign != "+":
        raise Drop("a difference")
    if max(int(left), int(right)) > LARGEST:
        raise Drop(f"a number above {LARGEST}")
    if b + d > 9:
        raise Drop("units that carry")
    working = f"{b}+{d}={b + d}, {a}+{c}={a + c}"
    return NewRow(question=f"{expression} = ?", answer=answer, response=f"{working} \\boxed{{{answer}}}")

"""Problems for a Python function in the form of HumanEval's: a prompt with a signature, a body, and a check of its results.

Every family has a body that solves it, and a reference that computes the expected results in another way; the numbers in it
are drawn. No body of a family solves another problem than its own.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Problem:
    """prompt: the head of the function, with what is defined before it; test: code that calls its `candidate`."""

    text: str
    entry_point: str
    prompt: str
    body: str
    test: str
    calls: tuple[tuple[str, str], ...]

    @property
    def setup(self) -> str:
        """What the prompt defines beside the stub."""
        return self.prompt + "    pass\n"


@dataclass(frozen=True)
class Family:
    """text, body: with {n} where a drawn number stands; reference: of n and the argument; draw: an argument."""

    name: str
    text: str
    body: str
    reference: Callable[[int, Any], Any]
    draw: Callable[[random.Random], Any]


def some_numbers(rng: random.Random) -> list[int]:
    return [rng.randint(-30, 60) for _ in range(rng.randint(0, 8))]


def some_text(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefgh  ", k=rng.randint(0, 16)))


def a_number(rng: random.Random) -> int:
    return rng.randint(0, 500)


FAMILIES = [
    Family(
        "above",
        "The numbers above {n}, in order.",
        "return [v for v in x if v > {n}]",
        lambda n, x: list(filter(n.__lt__, x)),
        some_numbers,
    ),
    Family(
        "multiples",
        "How many are multiples of {n}.",
        "return sum(v % {n} == 0 for v in x)",
        lambda n, x: len([v for v in x if not v % n]),
        some_numbers,
    ),
    Family(
        "shifted",
        "Each letter moved {n} on in a to z.",
        "return ''.join(chr((ord(c) - 97 + {n}) % 26 + 97) if c.isalpha() else c for c in x)",
        lambda n, x: x.translate({97 + k: 97 + (k + n) % 26 for k in range(26)}),
        some_text,
    ),
    Family(
        "chunks",
        "The text in pieces of {n} characters.",
        "return [x[k:k + {n}] for k in range(0, len(x), {n})]",
        lambda n, x: [x[k * n : k * n + n] for k in range(-(-len(x) // n))],
        some_text,
    ),
    Family(
        "digits",
        "The digits of x in base {n} + 1, highest first.",
        "d = []\n    while x:\n        x, r = divmod(x, {n} + 1)\n        d.append(r)\n    return d[::-1] or [0]",
        lambda n, x: in_base(n + 1, x),
        a_number,
    ),
    Family(
        "clipped",
        "Each number, at most {n} from 0.",
        "return [max(-{n}, min({n}, v)) for v in x]",
        lambda n, x: [sorted((-n, v, n))[1] for v in x],
        some_numbers,
    ),
    Family(
        "rotated",
        "The list turned {n} places to the left.",
        "k = {n} % len(x) if x else 0\n    return x[k:] + x[:k]",
        lambda n, x: [x[(k + n) % len(x)] for k in range(len(x))],
        some_numbers,
    ),
    Family(
        "longer",
        "The words of more than {n} letters, sorted.",
        "return sorted(w for w in x.split() if len(w) > {n})",
        lambda n, x: [w for w, _ in sorted((w, 0) for w in x.split(" ") if w[n:])],
        some_text,
    ),
    Family("powers", "x to the power {n}, modulo 1009.", "return pow(x, {n}, 1009)", lambda n, x: x**n % 1009, a_number),
    Family(
        "window",
        "The largest sum of {n} neighbours, or None.",
        "return max((sum(x[k:k + {n}]) for k in range(len(x) - {n} + 1)), default=None)",
        lambda n, x: max([sum(x[k + j] for j in range(n)) for k in range(len(x) - n + 1)]) if len(x) >= n else None,
        some_numbers,
    ),
    Family(
        "remainders",
        "How many there are of each remainder by {n}.",
        "d = {{}}\n    for v in x:\n        d[v % {n}] = d.get(v % {n}, 0) + 1\n    return d",
        lambda n, x: {r: sum(v % n == r for v in x) for r in {v % n for v in x}},
        some_numbers,
    ),
    Family(
        "mean",
        "The mean of the numbers and {n}, as a float.",
        "return (sum(x) + {n}) / (len(x) + 1)",
        lambda n, x: sum([n, *x]) / len([n, *x]),
        some_numbers,
    ),
    Family(
        "repeated",
        "The text's letters {n} times each, without spaces.",
        "return ''.join(c * {n} for c in x if c != ' ')",
        lambda n, x: "".join(c for c in x.replace(" ", "") for _ in range(n)),
        some_text,
    ),
    Family(
        "split",
        "Those below {n} and the others, as a tuple.",
        "return ([v for v in x if v < {n}], [v for v in x if v >= {n}])",
        lambda n, x: (list(filter(n.__gt__, x)), list(filter(n.__le__, x))),
        some_numbers,
    ),
]


def in_base(base: int, x: int) -> list[int]:
    return ([] if x < base else in_base(base, x // base)) + [x % base]


@cache
def problems() -> list[Problem]:
    """As many as HumanEval has: every family with a dozen numbers."""
    rng = random.Random(0)
    return [_problem(family, n, rng) for n in range(2, 14) for family in FAMILIES][:164]


def _problem(family: Family, n: int, rng: random.Random) -> Problem:
    name, text = f"{family.name}_{n}", family.text.format(n=n)
    arguments = [family.draw(rng) for _ in range(8)]
    calls = tuple((repr(argument), repr(family.reference(n, argument))) for argument in arguments)
    checks = "".join(f"    assert candidate({argument}) == {result}\n" for argument, result in calls)
    return Problem(
        text=text,
        entry_point=name,
        prompt=f'from typing import Any\n\n\ndef {name}(x: Any) -> Any:\n    """{text}"""\n',
        body=f"    {family.body.format(n=n)}\n",
        test=f"def check(candidate):\n{checks}\n\ncheck(candidate)",
        calls=calls,
    )

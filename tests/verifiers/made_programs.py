"""Small programs with inputs drawn for them and the outputs that running them gives: values of every plain type."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice

Arguments = Callable[[random.Random], tuple]


@dataclass(frozen=True)
class Program:
    """A function f, the arguments of a call as they are written, and what it returns, as a literal."""

    code: str
    input: str
    output: str


def word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdeéxyz _-'\"{}\\\n", k=rng.randint(0, 9)))


def numbers(rng: random.Random) -> list[int]:
    return [rng.randint(-20, 20) for _ in range(rng.randint(0, 7))]


def text_of(rng: random.Random) -> tuple:
    return (word(rng),)


def list_of(rng: random.Random) -> tuple:
    return (numbers(rng),)


def number_of(rng: random.Random) -> tuple:
    return (rng.randint(-99, 999),)


# What f(x) returns, and what x is drawn from.
BODIES: list[tuple[str, Arguments]] = [
    ("x[::-1]", text_of),
    ("x.upper().split('X')", text_of),
    ("{letter: x.count(letter) for letter in x}", text_of),
    ("x.partition('b')", text_of),
    ("x.encode()", text_of),
    ("[x, len(x), not x]", text_of),
    ("repr(x)", text_of),
    ("sorted(x)", list_of),
    ("(min(x, default=None), max(x, default=None))", list_of),
    ("{n % 3: n for n in x}", list_of),
    ("set(x)", list_of),
    ("sum(x) / (len(x) or 1)", list_of),
    ("[n for n in x if n > 0] or None", list_of),
    ("tuple(zip(x, x[1:]))", list_of),
    ("{'sum': sum(x), 'odd': [n % 2 == 1 for n in x]}", list_of),
    ("x * x", number_of),
    ("x % 7 == 0", number_of),
    ("divmod(x, 12)", number_of),
    ("x ** 20", number_of),
    ("x / 8", number_of),
    ("bin(x)", number_of),
    ("[[n * x for n in range(3)] for _ in range(x % 3)]", number_of),
]


def run(code: str, arguments: tuple) -> str:
    namespace: dict = {}
    exec(code, namespace)
    return repr(namespace["f"](*arguments))


def outputs(count: int, seed: int = 0) -> list[Program]:
    """So many different programs and inputs, of all bodies in turn."""
    rng, made = random.Random(seed), {}
    for body, draw in cycle(BODIES):
        code, arguments = f"def f(x):\n    return {body}", draw(rng)
        made[code, repr(arguments)] = Program(code, ", ".join(map(repr, arguments)), run(code, arguments))
        if len(made) == count:
            break
    return list(islice(made.values(), count))

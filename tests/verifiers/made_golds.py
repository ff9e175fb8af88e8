r"""Golds of every kind that competitions ask for, made with their values, so that equal and unequal are known without a parser.

A gold has its value, as plain data, and several renderings of it in LaTeX. Two golds are equal exactly if their values are.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle, islice
from typing import Any

SQUAREFREE = (2, 3, 5, 6, 7, 10, 11, 13, 14, 15)
WORDS = ("even", "odd", "ellipse", "parabola", "Monday", "Evelyn", "Friday", "obtuse", "hexagon", "no solution")


@dataclass(frozen=True)
class Gold:
    value: tuple[Any, ...]
    renderings: tuple[str, ...]


def integer(rng: random.Random) -> Gold:
    n = rng.randint(-99_999, 99_999)
    return Gold(("number", Fraction(n)), (str(n), f"{n:,}", f"{n}.0", f"x = {n}"))


def fraction(rng: random.Random) -> Gold:
    value = Fraction(rng.randint(-60, 60), rng.randint(2, 40))
    top, bottom = value.numerator, value.denominator
    return Gold(("number", value), (rf"\frac{{{top}}}{{{bottom}}}", f"{top}/{bottom}", rf"\dfrac{{{3 * top}}}{{{3 * bottom}}}"))


def decimal(rng: random.Random) -> Gold:
    hundredths = rng.randint(1, 9999)
    return Gold(("number", Fraction(hundredths, 100)), (f"{hundredths / 100:.2f}", f"{hundredths}/100", rf"{hundredths}\%"))


def money(rng: random.Random) -> Gold:
    cents = rng.randint(100, 999_999)
    return Gold(("number", Fraction(cents, 100)), (rf"\${cents / 100:.2f}", f"{cents / 100:,.2f}", rf"\$ {cents / 100:,.2f}"))


def angle(rng: random.Random) -> Gold:
    n = rng.randint(1, 359)
    return Gold(("number", Fraction(n)), (rf"{n}^\circ", f"{n}", rf"{n}^{{\circ}}", f"{n} degrees"))


def length(rng: random.Random) -> Gold:
    n = rng.randint(2, 500)
    return Gold(("number", Fraction(n)), (rf"{n}\text{{ cm}}", f"{n} cm", str(n), rf"{n}\mbox{{ centimeters}}"))


def surd(rng: random.Random) -> Gold:
    factor, root = rng.randint(2, 15), rng.choice(SQUAREFREE)
    squared = factor * factor * root
    return Gold(
        ("surd", squared), (rf"{factor}\sqrt{{{root}}}", rf"\sqrt{{{squared}}}", rf"\frac{{{factor * root}}}{{\sqrt{{{root}}}}}")
    )


def quadratic(rng: random.Random) -> Gold:
    whole, factor, root = rng.randint(1, 30), rng.randint(2, 9), rng.choice(SQUAREFREE)
    return Gold(("quadratic", whole, factor, root), (rf"{whole}+{factor}\sqrt{{{root}}}", rf"{factor}\sqrt{{{root}}}+{whole}"))


def circle(rng: random.Random) -> Gold:
    value = Fraction(rng.randint(1, 50), rng.randint(2, 12))
    top, bottom = value.numerator, value.denominator
    return Gold(
        ("pi", value),
        (rf"\frac{{{top}\pi}}{{{bottom}}}", rf"\frac{{{top}}}{{{bottom}}}\pi", rf"\frac{{{2 * top} \pi}}{{{2 * bottom}}}"),
    )


def polynomial(rng: random.Random) -> Gold:
    a, b, c = (rng.choice([-7, -5, -4, -3, 2, 3, 4, 5, 6, 8]) for _ in range(3))
    return Gold(("polynomial", a, b, c), (f"{a}x^2{b:+}x{c:+}", f"{c}{b:+}x{a:+}x^2", f"x({a}x{b:+}){c:+}"))


def product(rng: random.Random) -> Gold:
    a, b = rng.sample([-9, -8, -7, -5, -4, -2, 2, 3, 4, 6, 8, 9], 2)
    return Gold(
        ("polynomial", 1, a + b, a * b), (f"(y{a:+})(y{b:+})", f"(y{b:+})(y{a:+})", f"y^2{a + b:+}y{a * b:+}".replace("+0y", ""))
    )


def point(rng: random.Random) -> Gold:
    a, b = rng.randint(-20, 20), Fraction(rng.randint(-20, 20), rng.randint(1, 5))
    second = str(b) if b.denominator == 1 else rf"\frac{{{b.numerator}}}{{{b.denominator}}}"
    return Gold(("point", a, b), (f"({a}, {b})", rf"\left( {a}, {second} \right)", f"({a}.0,{b})"))


def interval(rng: random.Random) -> Gold:
    a = rng.randint(-30, 20)
    b = a + rng.randint(1, 30)
    opening, closing = rng.choice("(["), rng.choice(")]")
    low, high = {"(": "<", "[": r"\leq"}[opening], {")": "<", "]": r"\leq"}[closing]
    said = f"{a} {low} x {high} {b}"
    turned = f"{b} {high.replace('<', '>').replace('leq', 'geq')} x {low.replace('<', '>').replace('leq', 'geq')} {a}"
    return Gold(
        ("interval", opening, a, b, closing),
        (f"{opening}{a},{b}{closing}", rf"\left{opening}{a}, {b}\right{closing}", said, turned),
    )


def collection(rng: random.Random) -> Gold:
    numbers = rng.sample(range(-30, 60), rng.randint(2, 5))
    turned = [str(n) for n in reversed(numbers)]
    listed = ", ".join(map(str, numbers))
    return Gold(
        ("collection", frozenset(numbers)),
        (listed, ", ".join(turned), rf"\{{{listed}\}}", f"{', '.join(turned[:-1])} and {turned[-1]}"),
    )


def matrix(rng: random.Random) -> Gold:
    a, b, c, d = (rng.randint(-9, 9) for _ in range(4))
    body = rf"{a} & {b} \\ {c} & {d}"
    return Gold(("matrix", a, b, c, d), tuple(rf"\begin{{{kind}}} {body} \end{{{kind}}}" for kind in ("pmatrix", "bmatrix")))


def word(rng: random.Random) -> Gold:
    said = rng.choice(WORDS)
    return Gold(("word", said), (rf"\text{{{said}}}", said, rf"\text{{{said.upper()}}}", rf"\textbf{{{said}}}."))


KINDS: tuple[Callable[[random.Random], Gold], ...] = (
    *(integer, fraction, decimal, money, angle, length, surd, quadratic),
    *(circle, polynomial, product, point, interval, collection, matrix, word),
)


def golds(count: int, seed: int = 0) -> list[Gold]:
    """So many golds, of all kinds in turn."""
    rng = random.Random(seed)
    return [kind(rng) for kind in islice(cycle(KINDS), count)]

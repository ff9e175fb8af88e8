"""Decides whether two parsed expressions are the same value, set, point, matrix or relation.

Rational numbers are compared exactly. Other numbers are computed with 80 bits more than their largest and smallest parts need:
1/2^98 is not 1/2^99, and e^{-100} is not e^{-101}. Two functions are equal if they are at several points: letters are real
numbers, or natural numbers if nothing else makes sense, as in n! and (-1)^n. The points have a large denominator, so that
different functions do not meet there by chance.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

from sympy import (
    Abs,
    Basic,
    Eq,
    Expr,
    FiniteSet,
    Float,
    I,
    Integer,
    Interval,
    MatrixBase,
    MatrixExpr,
    Ne,
    Number,
    Pow,
    Product,
    Rational,
    S,
    Set,
    Sum,
    Symbol,
    Tuple,
    Union,
    binomial,
    ceiling,
    factorial,
    floor,
    fraction,
    log,
    preorder_traversal,
    simplify,
    together,
)
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import And

_GUARD_BITS = 80
_MAX_BITS = 100_000
_NUM_POINTS = 6  # points at which functions must agree
_NUM_TRIED = 24  # a point is of no use if a root or a logarithm leaves the real numbers there
_DENOMINATOR = 10_007
_DOUBLE = 15  # correct digits of a double that a program printed
_PIECEWISE = (Abs, floor, ceiling)
Point = dict[Symbol, Number]


def same(gold: Basic | MatrixBase, answer: Basic | MatrixBase, *, digits: int) -> bool:
    """Whether both are equal. A decimal answer with `digits` significant digits may round a number that is not a decimal.

    False if that cannot be decided.
    """
    try:
        return not gold.has(S.NaN, S.ComplexInfinity) and bool(_same(gold, answer, digits))  # not a BooleanTrue
    except Exception:  # sympy raises many kinds of errors for expressions without a value
        return False


def rounds(decimal: str, value: Fraction, digits: int) -> bool:
    """Whether an unsigned decimal such as 0.1250 is the value rounded or truncated, with enough significant digits."""
    whole, _, places = decimal.partition(".")
    numeral = whole + places
    scaled = value * 10 ** len(places)
    num_digits = len(numeral.lstrip("0"))
    if num_digits > _DOUBLE and scaled.denominator > 1 and abs(int(numeral) - scaled) < 10 ** (num_digits - _DOUBLE):
        return True
    return num_digits >= digits and int(numeral) in (round(scaled), int(scaled))


def computed(number: Expr) -> Fraction:
    """A real number to at least 80 bits after its first."""
    value = Rational(number.evalf(_GUARD_BITS // 3))
    return Fraction(value.p, value.q)


def _same(gold: Any, answer: Any, digits: int) -> bool:
    if gold == answer:
        return True
    is_relation = [isinstance(each, Relational | And) and not _is_membership(each) for each in (gold, answer)]
    if all(is_relation):
        return _same_relation(gold, answer)
    if any(is_relation) or isinstance(gold, Set | Tuple | Eq) or isinstance(answer, Set | Tuple | Eq):
        return _same_collection(_as_collection(gold), _as_collection(answer), digits)
    gold, answer = (each.doit() if isinstance(each, MatrixExpr) else each for each in (gold, answer))
    if isinstance(gold, MatrixBase) and isinstance(answer, MatrixBase):
        return gold.shape == answer.shape and _all_same(gold.flat(), answer.flat(), digits)
    if isinstance(gold, Expr) and isinstance(answer, Expr):
        return same_value(gold, answer) or _is_rounded(answer, gold, digits)
    return False


def _all_same(golds: Sequence[Any], answers: Sequence[Any], digits: int) -> bool:
    return len(golds) == len(answers) and all(_same(*pair, digits) for pair in zip(golds, answers, strict=True))


def _is_membership(value: Any) -> bool:
    """Whether the parser read x in S, which it writes as x = S, or (x, y) = (1, 2)."""
    return isinstance(value, Eq) and isinstance(value.rhs, Set | Tuple)


def _as_collection(value: Any) -> Any:
    """A relation in one letter as the set of its solutions, x in S as S, a column as a point, and one value as a set of one."""
    if _is_membership(value):
        return value.rhs
    if isinstance(value, Relational | And) and not isinstance(value, Eq):
        return value.xreplace(_names(value)).as_set()
    if isinstance(value, MatrixBase):
        return Tuple(*value.flat()) if value.shape[1] == 1 else None
    return value if isinstance(value, Set | Tuple) else FiniteSet(value)


def _same_collection(gold: Any, answer: Any, digits: int) -> bool:
    if isinstance(gold, Interval) and isinstance(answer, Interval):
        sides = (gold.left_open, gold.right_open) == (answer.left_open, answer.right_open)
        return sides and _all_same((gold.start, gold.end), (answer.start, answer.end), digits)
    if isinstance(gold, Interval | Tuple) and isinstance(answer, Interval | Tuple):
        first, second = ((each.start, each.end) if isinstance(each, Interval) else each.args for each in (gold, answer))
        is_point = all(isinstance(each, Tuple) or each.is_open for each in (gold, answer))  # (a, b) is read as an interval
        return is_point and _all_same(first, second, digits)
    for kind in (FiniteSet, Union):
        if isinstance(gold, kind) and isinstance(answer, kind):
            return _same_in_some_order(gold.args, answer.args, digits)
    return isinstance(gold, Set) and isinstance(answer, Set) and gold.symmetric_difference(answer).is_empty is True


def _same_in_some_order(golds: Sequence[Any], answers: Sequence[Any], digits: int) -> bool:
    left = list(answers)
    for gold in golds:
        match = next((number for number, answer in enumerate(left) if _same(gold, answer, digits)), None)
        if match is None:
            return False
        del left[match]
    return not left


def _is_rounded(answer: Expr, gold: Expr, digits: int) -> bool:
    """Whether the answer, inside of a list or a point, is a decimal that rounds the gold, a number that is not a decimal."""
    if not (isinstance(answer, Rational) and gold.is_number and gold.is_real and answer.q > 1) or _places(gold) is not None:
        return False
    places = _places(answer)
    if places is None or (answer < 0) != (gold < 0):
        return False
    numeral = f"{abs(answer.p) * 10**places // answer.q:0{places + 1}d}"
    return rounds(f"{numeral[:-places]}.{numeral[-places:]}", abs(computed(gold)), digits)


def _places(number: Expr) -> int | None:
    """The decimal places of a rational number; None if it has no end, or more than 100."""
    if not isinstance(number, Rational):
        return None
    return next((places for places in range(100) if 10**places % number.q == 0), None)


def _same_relation(gold: Any, answer: Any) -> bool:
    """Whether the relations, or chains of relations, are equal up to their sides and a constant factor, link by link."""
    if isinstance(gold, And) and isinstance(answer, And):
        links = zip(gold._unsorted_args, answer._unsorted_args, strict=True)
        return all(_same_relation(*link) for link in links)
    if not isinstance(gold, Relational) or not isinstance(answer, Relational):
        return False
    if type(gold) is not type(answer):
        answer = answer.reversed
    if type(gold) is not type(answer) or _is_solved(gold) and not _is_solved(answer):
        return False
    expected, given = gold.lhs - gold.rhs, answer.lhs - answer.rhs
    if isinstance(gold, Eq | Ne):
        expected, given = (fraction(together(side))[0] for side in (expected, given))  # y = 1/x is xy = 1
    return _is_multiple(expected, given, must_be_positive=not isinstance(gold, Eq | Ne))


def _is_solved(relation: Relational) -> bool:
    """Whether it is a letter beside a number, such as x = 3 or -2 > -x, which 2x = 6 is not."""
    sides = relation.args
    return any(side.is_number for side in sides) and any(isinstance(each, Symbol) for side in sides for each in (side, -side))


def _is_multiple(expected: Expr, given: Expr, *, must_be_positive: bool) -> bool:
    names = _names(expected, given)
    expected, given = expected.xreplace(names), given.xreplace(names)
    for point in islice(_points(expected, given), _NUM_POINTS):
        one, other = expected.xreplace(point), given.xreplace(point)
        if same_value(one, S.Zero) or same_value(other, S.Zero):
            continue
        return (not must_be_positive or (other / one).evalf() > 0) and same_value(expected * other, given * one)
    return False


def same_value(one: Expr, other: Expr) -> bool:
    """Whether two numbers, or two functions of the same letters, are equal."""
    names = _names(one, other)
    one, other = (each.xreplace(names).doit() for each in (one, other))
    if one == other:
        return True
    if not (one.free_symbols or other.free_symbols):
        return _same_number(one, other)
    if not _agree(one, other):
        return False
    # Points may all lie on one piece of |x - 100|.
    return not (one.has(*_PIECEWISE) or other.has(*_PIECEWISE)) or simplify(one - other) == 0


def _names(*expressions: Basic) -> dict[Any, Symbol]:
    """A letter for each value of an unknown function, such as f(x + 1)."""
    calls = {call for expression in expressions for call in expression.atoms(AppliedUndef)}
    return {call: Symbol(str(call), real=True) for call in calls}


def _agree(one: Expr, other: Expr) -> bool:
    """Whether the functions agree at all points where both are real, or, if there are too few, at all points."""
    skips = one.has(Abs) == other.has(Abs)  # ln x is not ln |x|, though it is where it is real
    points = list(islice(_points(one, other), _NUM_TRIED))
    usable = (point for point in points if skips and _is_real_at(one, point) and _is_real_at(other, point))
    agreed = _num_agreed(one, other, usable)
    if agreed is not None and agreed < _NUM_POINTS // 2:
        agreed = _num_agreed(one, other, points)
    return agreed is not None and agreed >= _NUM_POINTS // 2


def _num_agreed(one: Expr, other: Expr, points: Iterable[Point]) -> int | None:
    """At how many points the functions agree, at most _NUM_POINTS; None if they differ at one."""
    agreed = 0
    for point in points:
        values = [each.xreplace(point).doit() for each in (one, other)]
        if any(value.has(S.NaN, S.ComplexInfinity) for value in values):
            continue
        if not _same_number(*values):
            return None
        agreed += 1
        if agreed == _NUM_POINTS:
            break
    return agreed


def _points(one: Expr, other: Expr) -> Iterator[Point]:
    """Points in turn with all letters positive and with letters of any sign, from near 0 to thousands."""
    letters = sorted(one.free_symbols | other.free_symbols, key=str)
    powers = one.atoms(Pow) | other.atoms(Pow)
    counts = one.atoms(Sum, Product, factorial, binomial) | other.atoms(Sum, Product, factorial, binomial)
    natural = _free(counts) | _free(power.exp for power in powers if power.base.is_negative)
    small = _free(power.exp for power in powers)
    rooted = small | _free(power.base for power in powers if not isinstance(power.exp, Integer))
    digits = _num_digits(one) + _num_digits(other)
    rng = random.Random(0)
    draws: dict[Any, Callable[[], Number]] = {}
    for letter in letters:
        if letter in natural:
            draws[letter] = lambda: Integer(rng.randint(2, 30))
        elif letter in small:
            draws[letter] = lambda: Float(rng.randint(1, 3 * _DENOMINATOR), digits) / _DENOMINATOR
        elif letter in rooted:  # sympy would factor a rational number
            draws[letter] = lambda: Float(rng.randint(1, 10 ** rng.randint(4, 8)), digits) / _DENOMINATOR
        else:
            draws[letter] = lambda: Rational(rng.randint(1, 10 ** rng.randint(4, 8)), _DENOMINATOR)
    while True:
        yield {letter: draw() for letter, draw in draws.items()}
        yield {letter: draw() * (1 if letter in natural else rng.choice((-1, 1))) for letter, draw in draws.items()}


def _num_digits(function: Expr) -> int:
    """Decimal digits for a function's letters: no term is above 10^n or below 10^-n, and 3n digits keep both."""
    numbers = function.atoms(Rational)
    written = sum(number.p.bit_length() + number.q.bit_length() for number in numbers) // 3
    return 3 * (30 + written + sum(5 * min(abs(int(number)), 5_000) for number in numbers))


def _free(expressions: Iterable[Basic]) -> set[Basic]:
    return {letter for expression in expressions for letter in expression.free_symbols}


def _is_real_at(function: Expr, point: Point) -> bool:
    """Whether no root and no logarithm in the function is of a negative number there."""
    inner = [power.base for power in function.atoms(Pow) if not power.exp.xreplace(point).is_integer]
    inner += [logarithm.args[0] for logarithm in function.atoms(log)]
    return all(base.xreplace(point).evalf(10).is_nonnegative for base in inner)


def _same_number(one: Expr, other: Expr) -> bool:
    if one == other:
        return True
    if (isinstance(one, Rational) and isinstance(other, Rational)) or one.is_infinite or other.is_infinite:
        return False
    if precisions := [each._prec for each in one.atoms(Float) | other.atoms(Float)]:
        bits, tolerance = min(precisions), Rational(2) ** (-min(precisions) // 2)  # by _num_digits
    else:
        sizes = [size for each in (one, other) for node in preorder_traversal(each) if (size := _size(node)) is not None]
        bits, tolerance = max(sizes) - min(sizes) + 2 * _GUARD_BITS, Rational(2) ** (min(sizes) - _GUARD_BITS)
    if bits > _MAX_BITS:
        return False
    count = bits * 3 // 10
    values = [each.evalf(count, maxn=2 * count) for each in (one, other)]
    parts = [Rational(part) for value in values for part in value.as_real_imag()]
    return abs(parts[0] - parts[2]) < tolerance and abs(parts[1] - parts[3]) < tolerance


def _size(node: Basic) -> int | None:
    """The binary exponent of a number that is part of an expression; None if it is 0 or not a number."""
    if isinstance(node, Rational):
        return node.p.bit_length() - node.q.bit_length() if node.p else None
    if not isinstance(node, Expr) or not node.is_number or node is I:
        return None
    parts = [part for part in node.evalf(5).as_real_imag() if part.is_Float and part._prec > 1 and part._mpf_[1]]
    return max((part._mpf_[2] + part._mpf_[3] for part in parts), default=None)

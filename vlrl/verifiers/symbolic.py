r"""Compares mathematical expressions: whether an unboxed answer equals the gold, the reference answer.

The rules, in the order in which they apply:

1. Spelling is ignored: sizes, spaces, fonts, dollar signs, one final full stop; \geqslant is \geq (see `spelling`).
2. Words are compared as words: a gold in \text{...}, or bare words. Short bare letters are a word (no, Mon, odd, IV, ABC) unless
   they look like a product of variables (ab, xyz). (C) is C. Times and ratios (12:30), numbers with a base (101_2 is neither
   101_3 nor 101), and a gold beyond the limits below are compared as written.
3. A closing such as `for all real x` is ignored, unless both name different sets. Units: 12 inches is 12, because either side may
   omit its unit, but 5 m is not 5 cm, and 1 m is not 100 cm (see `units`). 5 million is 5000000; 5 squared is unreadable.
4. Percent: 33.5\% is 0.335. A gold of 28\% also accepts 28; a gold of 28 accepts 28\% only with `asks_percent`.
5. A name is ignored, unless both have different ones: a+b = 7, f(3) = 7 and AB = 7 are 7, but 2x = 14 is not (see `statements`).
   A rational gold accepts only a number written out: a decimal, a fraction, 3\frac{1}{2}, 1.5 \times 10^3. Of x = a = b, the last
   side counts. 3+4, \sqrt{49}, a sum and 5! are rejected, because they may repeat the question, and so is (1+2i)^2 for -3+4i.
   Equality is exact, except that a decimal with at least `digits` significant digits may round a gold that is not a decimal.
6. Brackets: (2,3) and [2,3] are neither \{2,3\} nor 2, 3. x < 2 or x > 3 is a union of intervals. x = 2, y = 3 is (2,3).
7. math-verify reads everything else, within the limits, and `equality` compares it. If the gold has no variable, an answer with a
   sum, product, integral, limit, derivative, factorial or binomial that the gold does not have is rejected. Expressions with
   variables only need to be equal: (x+1)^2 is x^2+2x+1, even if the question was to expand it. Equations may differ in their
   sides and in a constant factor, but x = 3 is not answered by 2x = 6.

Nothing is evaluated as Python. The limits keep known hostile texts away from the parser. No signal limits the time of other
texts: the caller must run this in a process that it can kill.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import Any

from sympy import Derivative, Expr, I, Integral, Limit, Product, Sum, Symbol, binomial, factorial

from vlrl.tasks import BadRow
from vlrl.verifiers.answers import number, same_text, written_number
from vlrl.verifiers.equality import computed, rounds, same
from vlrl.verifiers.latex import RELATION, elements, parsed
from vlrl.verifiers.limits import depth, is_beyond_limits
from vlrl.verifiers.spelling import respelled
from vlrl.verifiers.statements import is_name, named, without_condition
from vlrl.verifiers.units import Unit, without_unit

_UNEVALUATED = (Sum, Product, Integral, Limit, Derivative, factorial, binomial)
_I = Symbol("i", real=True)  # as the parser reads the letter

_TEXT = re.compile(r"\\text\{[^{}\\$]*[A-Za-z]{2}[^{}\\$]*\}|\(?[A-Z]\)?")
_SEPARATOR = re.compile(r" ?, ?(?:and )?| and ")
_PHRASE = re.compile(r"([A-Za-z]{2,})(?: [A-Za-z]+)*")
_AS_WRITTEN = re.compile(r"\d+(?: ?: ?\d+)+|[0-9A-F]+_(?:\{ ?\d+ ?\}|\d)")
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "sixteen": 16}
_BASE = re.compile(rf"_\{{? ?(?:\\text\{{ ?)?({'|'.join(_BASES)})(?: ?\}}){{0,2}}")
_BRACED = re.compile(r"\{ ?([0-9A-Za-z]) ?\}")
_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])|(?<=mod) (?=\d)")
_PERCENT = re.compile(r" ?(?:\\?%|percent|\\text\{ ?percent ?\})$")

_APPROXIMATELY = re.compile(r" ?(?:\\approx(?![A-Za-z])|≈) ?")

_DECIMAL = re.compile(r"([+-]?)([\d,]*\.\d+)")
_WRAPPED = re.compile(r"\( ?([^()]+?) ?\)|\{ ?([^{}]+?) ?\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Quantity:
    """An expression without its unit, percent sign and condition. `name = value` is split; otherwise `value` is the text."""

    text: str
    name: str
    value: str
    unit: Unit
    percent: bool
    domain: frozenset[str]


def same_expression(answer: str, gold: str, *, digits: int = 6, asks_percent: bool = False) -> bool:
    r"""Whether the answer equals the gold, by the rules of this module. An unreadable answer does not.

    digits: significant digits that a decimal needs to match a number that is not a decimal; asks_percent: a gold of 28 also
    accepts 28\%. Raises BadRow if the gold cannot be read.

    >>> same_expression(r"\frac{\sqrt8}{2}", r"\sqrt2"), same_expression("1.41421", r"\sqrt2"), same_expression("1.4", r"\sqrt2")
    (True, True, False)
    >>> same_expression("x = 7", "7"), same_expression("3+4", "7"), same_expression(r"33.5\%", "0.335")
    (True, False, True)
    >>> same_expression(r"x<2 \text{ or } x>3", r"(-\infty,2)\cup(3,\infty)"), same_expression(r"\{2,3\}", "(2,3)")
    (True, False)
    """
    answer, gold = respelled(answer), respelled(gold)
    if not gold:
        raise BadRow("the reference answer is empty")
    exact, *rounded = _APPROXIMATELY.split(answer)
    if rounded and not is_name(exact):
        return len(rounded) == 1 and same_expression(exact, gold, digits=digits) and same_expression(rounded[0], gold, digits=3)
    answer, gold = (_APPROXIMATELY.sub("=", text) for text in (answer, gold))
    if _TEXT.fullmatch(gold):
        return same_text(_words(answer), _words(gold))
    if all(map(_is_phrase, phrases := _SEPARATOR.split(gold))):
        return sorted(map(_words, _SEPARATOR.split(answer))) == sorted(map(_words, phrases))
    if _AS_WRITTEN.fullmatch(gold) or _AS_WRITTEN.fullmatch(answer):
        return _as_written(answer) == _as_written(gold)
    given, expected = _quantity(answer), _quantity(gold)
    for one, other in ((given.unit, expected.unit), (given.domain, expected.domain)):
        if one and other and one != other:
            return False
    if (given.percent and expected.unit) or (expected.percent and given.unit):
        return False
    if (value := _rational(expected.value)) is not None:
        return _same_rational(given, expected, value, digits, asks_percent)
    return given.percent == expected.percent and _same_symbolic(given, expected, digits)


def _same_rational(given: _Quantity, expected: _Quantity, value: Fraction, digits: int, asks_percent: bool) -> bool:
    number_given = _rational(given.value)
    if number_given is None or (given.name and expected.name and given.name != expected.name):
        return False
    values = [value]
    if given.percent and not expected.percent:
        values = [100 * value, value] if asks_percent else [100 * value]
    elif expected.percent and not given.percent:
        values = [value, value / 100]
    must_be_exact = "." in expected.value
    return any(number_given == one or not must_be_exact and _rounds(given.value, one, digits) for one in values)


def _same_symbolic(given: _Quantity, expected: _Quantity, digits: int) -> bool:
    if is_beyond_limits(expected.text):
        if depth(expected.text) == inf:
            raise BadRow(f"the reference answer {expected.text!r} cannot be read")
        return _as_written(given.value) == _as_written(expected.value)
    given_text, gold_text = _comparable(given, expected)
    gold = parsed(gold_text)
    if gold is None and all(parsed(text) is None for text in (expected.value, expected.text)):
        raise BadRow(f"the reference answer {expected.text!r} cannot be read")
    if _as_written(given.text) == _as_written(expected.text):
        return True
    if not given_text or is_beyond_limits(given_text) or {_shape(given_text), _shape(gold_text)} in ({"()", "{}"}, {"()", ","}):
        return False
    decimal = number(given_text) if "." in given_text else None
    if decimal is not None and isinstance(gold, Expr) and gold.is_number and gold.is_real:
        value = computed(gold)
        return abs(value - decimal) < Fraction(1, 10**30) * abs(value) or _rounds(given_text, value, digits)
    answer = parsed(given_text)
    if gold is None or answer is None:
        return False
    if not gold.free_symbols and answer.has(*_UNEVALUATED) and not gold.has(*_UNEVALUATED):
        return False
    if not _is_written_out_complex(gold):
        gold, answer = (each.xreplace({_I: I}) for each in (gold, answer))
    return same(gold, answer, digits=digits)


def _comparable(given: _Quantity, expected: _Quantity) -> tuple[str, str]:
    """The values, or the whole equations if their names differ or if only one has a name, as in y = 2x and 2x - y = 0."""
    if given.name and expected.name:
        needs_equation = given.name != expected.name
    else:
        other = expected if given.name else given
        needs_equation = bool(given.name or expected.name) and ("=" in other.text or RELATION.search(other.text) is not None)
    if needs_equation:
        return given.text, expected.text
    if given.name.startswith("(") and (_shape(given.value), _shape(expected.value)) == (
        "()",
        ",",
    ):
        return given.value[1:-1], expected.value
    return given.value, expected.value


def _words(text: str) -> str:
    words = text.replace(r"\text{", "").strip("(){} ").casefold().split()
    return " ".join(words[1:] if words[1:] and words[0] in ("a", "an", "the") else words)


def _is_phrase(text: str) -> bool:
    """Whether the text begins with a word that is not a product of letters."""
    phrase = _PHRASE.fullmatch(text)
    return phrase is not None and not _is_product(phrase[1])


def _is_product(letters: str) -> bool:
    """Whether bare letters are a product of variables, as ab, xyz and Rr are, and not a word, as no, Mon, odd, IV and ABC are.

    Variables are not written twice, o is not a variable, and three or more of them with vowels are in alphabetical order.
    """
    if len(set(letters)) < len(letters) or set(letters) <= set("IVX") or set(letters) <= set("ivx"):
        return False
    if not letters.islower():
        return len(letters) == 2 and "o" not in letters.lower()
    if len(letters) == 2 or not set(letters) & set("aeiou"):
        return "o" not in letters
    neighbours = "".join(chr(ord(letters[0]) + place) for place in range(len(letters)))
    return letters == neighbours or len(letters) == 3 and letters == "".join(sorted(letters)) and not set(letters) & set("eo")


def _as_written(text: str) -> str:
    """The text without the spaces and the braces that mean nothing: x^{2} is x^2, but x^{12} and x^{n+1} keep their braces."""
    text = _BASE.sub(lambda base: f"_{{{_BASES[base[1]]}}}", text)
    return _SPACE.sub("", _BRACED.sub(r"\1", _BRACED.sub(r"\1", text)))


def _quantity(text: str) -> _Quantity:
    text, domain = without_condition(text)
    if percent := _PERCENT.search(text):
        text = text[: percent.start()].rstrip() or text
    text, unit = (text, ()) if percent else without_unit(text)
    unit = unit or ((("dollar", 1),) if "$" in text else ())
    text = text.replace(r"\$", "").replace("$", "").strip()
    name, value = named(text)
    return _Quantity(text=text, name=name, value=value, percent=bool(percent), unit=unit, domain=domain)


def _is_written_out_complex(gold: Any) -> bool:
    """Whether the gold is a + bi with rational a and b, which its question, such as (1+i)^2, must not answer."""
    if not isinstance(gold, Expr) or gold.free_symbols != {_I}:
        return False
    real, imaginary = gold.subs(_I, 0), gold.diff(_I)
    return bool(real.is_Rational and imaginary.is_Rational)


def _rational(text: str) -> Fraction | None:
    """Reads `text` as a number, by rule 5; None if it is not one."""
    if wrapped := _WRAPPED.fullmatch(text):
        text = wrapped[1] or wrapped[2]
    return written_number(text)


def _rounds(text: str, value: Fraction, digits: int) -> bool:
    """Whether `text` is the value rounded or truncated to a decimal with at least `digits` significant digits."""
    shown = _DECIMAL.fullmatch(text)
    return shown is not None and rounds(shown[2].replace(",", ""), -value if shown[1] == "-" else value, digits)


def _shape(text: str) -> str:
    """The brackets of a list with two or more items: "()" for round or square brackets, "{}" for braces, "," for none."""
    if len(elements(text)) > 1:
        return ","
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "{}"
    return "()" if "," in text and text[0] in "([" and text[-1] in ")]" else ""

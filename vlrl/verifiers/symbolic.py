r"""Expressions: whether an answer, taken out of its box, is mathematically the gold.

Rules, in the order in which they decide:

1. Dress does not count: \left, \right, spaces, dollars around, one full stop after, the font of a \text{...}.
2. Words (a gold in \text{...}, or of four letters and more) are compared as words; (C) is C. Times and ratios (12:30), a
   number with its base (101_2 is neither 101_3 nor 101), and a gold beyond the limits below are compared as written.
3. Units: 12 inches is 12, as either side may leave its unit out, but 5 m is not 5 cm, nor is 1 m 100 cm. A unit is a last
   \text{...} of up to three words (no or, and, not), a known word after a number, or a known letter after one and a space.
4. Percent: 33.5\% is 0.335. A gold of 28\% also takes 28; a gold of 28 takes 28\% only with `asks_percent`.
5. A gold that is a rational number takes such a number alone, written out: a decimal, a fraction, 3\frac{1}{2}, 1.5 \times
   10^3; of x = a = b, the last side. So 3+4, \sqrt{49}, a sum or 5! are refused: they may be the question, repeated.
   Equality is exact, but a decimal with `digits` significant digits or more may round a gold that is not a decimal.
6. Brackets: (2,3) and [2,3] are neither \{2,3\} nor 2, 3. x < 2 or x > 3 is a union of intervals.
7. All else is compared by math-verify, within the limits. Where the gold has no variable, an answer with a sum, product,
   integral, limit, derivative, factorial or binomial that the gold has not is refused. Between expressions with variables,
   equality is all: (x+1)^2 is x^2+2x+1, even if the question was to expand it.

Nothing is evaluated as Python. The limits keep the hostile texts that can be named from the parser; the time of the others is
bounded from outside, by whoever runs this in a process that can be killed: signals are not used.
"""

import logging
import re
from dataclasses import dataclass
from fractions import Fraction
from math import comb, inf, prod

from math_verify import verify
from sympy import Derivative, Expr, Integral, Limit, Product, Sum, binomial, factorial

from vlrl.tasks import BadRow
from vlrl.verifiers.answers import MAX_ANSWER, number, same_text
from vlrl.verifiers.latex import BRACKET, NAME, RELATION, STEP, elements, parsed

MAX_DEPTH = 16
MAX_COMMANDS = 256
MAX_OPERATORS = 1024
MAX_ELEMENTS = 64
MAX_POWER = 1000  # of a number or a letter, and the greatest n in n! and \binom
MAX_TERMS = 500  # of the powers of brackets with letters in them, multiplied out

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns once that its time-outs are off

_UNEVALUATED = (Sum, Product, Integral, Limit, Derivative, factorial, binomial)
_PRECISION = 60  # digits of an irrational gold
_DOUBLE = 15  # digits that a decimal printed by a program has right

_CHARACTERS = str.maketrans(
    {"−": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "θ": r"\theta ", "∞": r"\infty ", "≤": r"\leq "}
    | {"≥": r"\geq ", "≠": r"\neq ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "°": r"^\circ "}
)
_REWRITES = [
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mbox|math(?:rm|bf|it)|operatorname)\s*(?=\{)"), r"\\text"),
    (re.compile(r"\\text\{([A-Za-z])\}"), r" \1"),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r",\\!\s*|\{,\}|(?<=\d)(?:\\[,;:! ]|~)(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad(?![A-Za-z])|~"), " "),
    (re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"\(([0-9A-F]+)\)(?=_)"), r"\1"),
    (re.compile(r"\s+"), " "),
]

_WORDS = re.compile(r"\\text\{(?:[^{}\\$]*[A-Za-z]{2}[^{}\\$]*|\([A-Z]\))\}|\(?[A-Z]\)?|[A-Za-z]{4,}(?: [A-Za-z]+)*")
_AS_WRITTEN = re.compile(r"\d+(?: ?: ?\d+)+|[0-9A-F]+_(?:\{ ?\d+ ?\}|\d)")
_PERCENT = re.compile(r" ?(?:\\?%|percent|\\text\{ ?percent ?\})$")
_LETTERS = re.compile(r"[A-Za-z]")
_NUMERAL = re.compile(r"\d+")
_LONG_NUMERAL = re.compile(r"\d{257}")

_UNITS = """mm millimeter millimetre, cm centimeter centimetre, m meter metre, km kilometer kilometre, in inch inche,
    ft foot feet, yd yard, mi mile, mg milligram, g gram, kg kilogram, lb pound, s sec second, min minute, h hr hour,
    day, week, month, year, mL milliliter millilitre, L l liter litre, mph, degree deg, dollar, cent, unit"""
_UNIT_OF = {spelling: unit for unit, *others in map(str.split, _UNITS.split(",")) for spelling in [unit, *others]}
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_KNOWN = "|".join(sorted((word for word in _UNIT_OF if len(word) > 1), key=len, reverse=True))
_UNIT = re.compile(
    r"(?P<degree> ?\^ ?(?:\\circ|\{ ?\\circ ?\}))$"
    r"|(?: ?\\text\{ ?(?P<text>(?!(?:or|and|not)\b)[A-Za-z]+\.?(?: (?!(?:or|and|not)\b)[A-Za-z]+\.?){0,2}) ?\}"
    rf"|(?<=[\d}}]) ?(?P<word>(?:(?:square|sq|cubic|cu)\.? )?(?:{_KNOWN})s?)\.?"
    r"|(?<=\d) (?P<letter>[mgshlL]))(?: ?\^ ?\{? ?(?P<power>[23]) ?\}?)?$"
)

_MIXED = re.compile(r"([+-]?) ?(\d+) ?(\\frac.*|(?<= )\d+ ?/ ?\d+)")
_SCIENTIFIC = re.compile(r"(.+?) ?(?:\\times|\\cdot|\*) ?10 ?\^ ?(?:\{ ?(-?\d{1,3}) ?\}|(\d))")
_DECIMAL = re.compile(r"([+-]?)([\d,]*)\.(\d+)")

_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SYMBOLS = frozenset(
    """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi
    varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega""".split()  # noqa: SIM905
)
_COMMANDS = _SYMBOLS | frozenset(
    """frac sqrt binom sum prod int lim to infty cdot times div pm mp circ prime sin cos tan sec csc cot arcsin arccos arctan
    sinh cosh tanh log ln exp le leq ge geq lt gt ne neq approx in notin cup cap setminus emptyset mathbb text begin end or lor
    ldots dots cdots lfloor rfloor lceil rceil langle rangle vert lvert rvert mid overline bar vec hat pi""".split()  # noqa: SIM905
)
_HOSTILE = re.compile(
    r"""__|['"`$@#]|import|(?<!\\)lambda|\\text\{[^{}]*(?:[(_]|\} ?\()"""
    r"|\^ ?\w ?\^|(?:\|[^|]*){9}|vmatrix|\| ?\\begin|\\end\{[a-z]*\}[)\]} ]*\^"  # towers, determinants, powers of a matrix
    r"|!\W*!|\d{4,} ?!|(?:\d\d|\^)[^(){}]*[)}] ?!|\^ ?\{[^{}]*!"  # factorials that are long to write out
    r"|\\binom ?\{[^{}]*(?:\d{4}|\^)|\\binom ?\{[^{}]*\} ?\{[^{}]*(?:\d{4}|\^)"
)
_EXPONENT = re.compile(r"([)}]?) ?\^ ?(?:\{((?:[^{}]|\{[^{}]*\})*)\}|\(([^()]*)\)|(\d+|.))")
_NUMERAL_POWER = re.compile(r"\d[ )}]*\^")
_WRAPPED = re.compile(r"\( ?([^()]+?) ?\)|\{ ?([^{}]+?) ?\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Quantity:
    """An expression without its unit and percent sign; as `name = value` where it is so written, or else all of it is value."""

    text: str
    name: str
    value: str
    unit: str
    percent: bool


def same_expression(answer: str, gold: str, *, digits: int = 6, asks_percent: bool = False) -> bool:
    r"""Whether the answer is mathematically the gold, by the rules of this module; an answer that cannot be read is not.

    digits: how many a decimal must show to stand for a number that is not a decimal; asks_percent: 28\% is also taken for 28.
    BadRow where the gold cannot be read.

    >>> same_expression(r"\frac{\sqrt8}{2}", r"\sqrt2"), same_expression("1.41421", r"\sqrt2"), same_expression("1.4", r"\sqrt2")
    (True, True, False)
    >>> same_expression("x = 7", "7"), same_expression("3+4", "7"), same_expression(r"33.5\%", "0.335")
    (True, False, True)
    >>> same_expression(r"x<2 \text{ or } x>3", r"(-\infty,2)\cup(3,\infty)"), same_expression(r"\{2,3\}", "(2,3)")
    (True, False)
    """
    answer, gold = _undressed(answer), _undressed(gold)
    if not gold:
        raise BadRow("the reference answer is empty")
    if _WORDS.fullmatch(gold):
        return same_text(_words(answer), _words(gold))
    if _AS_WRITTEN.fullmatch(gold) or _AS_WRITTEN.fullmatch(answer):
        return _as_written(answer) == _as_written(gold)
    given, expected = _quantity(answer), _quantity(gold)
    if given.unit and expected.unit and given.unit != expected.unit:
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
    exactly = "." in expected.value
    return any(number_given == one or not exactly and _rounds(given.value, one, digits) for one in values)


def _same_symbolic(given: _Quantity, expected: _Quantity, digits: int) -> bool:
    beyond_limits = _is_beyond_limits(expected.text)
    gold = None if beyond_limits else parsed(expected.text)
    if gold is None and (not beyond_limits or _depth(expected.text) == inf):
        raise BadRow(f"the reference answer {expected.text!r} cannot be read")
    if gold is None or _as_written(given.text) == _as_written(expected.text):
        return _as_written(given.text) == _as_written(expected.text)
    if (
        not given.text
        or _is_beyond_limits(given.text)
        or {_shape(given.text), _shape(expected.text)} in ({"()", "{}"}, {"()", ","})
    ):
        return False
    decimal = number(given.value) if "." in given.value else None
    if decimal is not None and isinstance(gold, Expr) and gold.is_number and gold.is_real:
        value = Fraction(str(gold.evalf(_PRECISION)))
        return abs(value - decimal) < Fraction(1, 10**30) or _rounds(given.value, value, digits)
    answer = parsed(given.text)
    if answer is None or (not gold.free_symbols and answer.has(*_UNEVALUATED) and not gold.has(*_UNEVALUATED)):
        return False
    return verify(gold, answer, float_rounding=digits, allow_set_relation_comp=True, timeout_seconds=None)


def _undressed(text: str) -> str:
    """The text by rule 1, in the spellings that the other rules know; nothing of one that is too long."""
    if len(text) > MAX_ANSWER:
        return ""
    text = text.translate(_CHARACTERS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip().removesuffix(".").rstrip()
    if text.startswith("$") and text.endswith("$"):
        text = text.strip("$").strip()
    return text.removeprefix(r"\(").removesuffix(r"\)").strip() if text.startswith(r"\(") else text


def _words(text: str) -> str:
    return text.replace(r"\text{", "").strip("(){} ")


def _as_written(text: str) -> str:
    return text.translate({ord(mark): None for mark in " {}"})


def _quantity(text: str) -> _Quantity:
    percent = _PERCENT.search(text)
    unit = None if percent else _UNIT.search(text)
    if ending := percent or unit:
        text = text[: ending.start()].rstrip() or text
    unit_name = _unit_name(unit) if unit else "dollar" if "$" in text else ""
    text = text.replace(r"\$", "").replace("$", "").strip()
    name, value = "", text
    first, *others = (part.strip() for part in text.split("="))
    if others and not RELATION.search(text):
        if NAME.fullmatch(first):
            name, value = first, others[-1]
        elif NAME.fullmatch(others[-1]) and len(others) == 1:
            name, value = others[-1], first
        elif not _LETTERS.search(first):
            value = others[-1]
    return _Quantity(text=text, name=name, value=value, percent=bool(percent), unit=unit_name)


def _unit_name(unit: re.Match[str]) -> str:
    if unit["degree"]:
        return "degree"
    words = (unit["text"] or unit["word"] or unit["letter"]).replace(".", "").split()
    power = unit["power"] or _POWERS.get(words[0].lower(), "")
    words = [word for word in words if word.lower() not in _POWERS]
    return " ".join(_UNIT_OF.get(word) or _UNIT_OF.get(one := word.lower().removesuffix("s"), one) for word in words) + power


def _rational(text: str) -> Fraction | None:
    """The number that `text` is, as in rule 5."""
    if wrapped := _WRAPPED.fullmatch(text):
        text = wrapped[1] or wrapped[2]
    if (value := number(text)) is not None:
        return value
    if mixed := _MIXED.fullmatch(text):
        whole, part = number(mixed[2]), number(mixed[3])
        if whole is None or part is None or not 0 < part < 1:
            return None
        return -(whole + part) if mixed[1] == "-" else whole + part
    if power := _SCIENTIFIC.fullmatch(text):
        factor = number(power[1])
        return None if factor is None else factor * Fraction(10) ** int(power[2] or power[3])
    return None


def _rounds(text: str, value: Fraction, digits: int) -> bool:
    """Whether `text` is the value rounded, or cut off, to a decimal of at least `digits` significant digits."""
    shown = _DECIMAL.fullmatch(text)
    if shown is None:
        return False
    sign, whole, places = shown.groups()
    numeral = whole.replace(",", "") + places
    scaled = value * 10 ** len(places) * (-1 if sign == "-" else 1)
    num_digits = len(numeral.lstrip("0"))
    if num_digits > _DOUBLE and scaled.denominator > 1 and abs(int(numeral) - scaled) < 10 ** (num_digits - _DOUBLE):
        return True
    return num_digits >= digits and int(numeral) in (round(scaled), int(scaled))


def _shape(text: str) -> str:
    """How a list of two or more is bracketed: "()" by round or square brackets, "{}" by braces, "," not at all."""
    if len(elements(text)) > 1:
        return ","
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "{}"
    return "()" if "," in text and text[0] in "([" and text[-1] in ")]" else ""


def _is_beyond_limits(text: str) -> bool:
    """Whether the text is too much, or too strange, to be given to the parser."""
    commands = _COMMAND.findall(text)
    return (
        not text.isascii()
        or len(commands) > MAX_COMMANDS
        or not _COMMANDS.issuperset(commands)
        or sum(map(text.count, "+-*/^=<>|")) + commands.count("cdot") > MAX_OPERATORS
        or sum(map(text.count, ",;&")) > MAX_ELEMENTS
        or bool(_LONG_NUMERAL.search(text) or _HOSTILE.search(text))
        or _depth(text) > MAX_DEPTH
        or _is_too_high(text)
    )


def _depth(text: str) -> float:
    """How deep brackets and braces are nested, as intervals may mix them; infinite where the braces do not pair."""
    depth = deepest = braces = 0
    for mark in BRACKET.finditer(text):
        depth += STEP.get(mark[0], 0)
        deepest = max(deepest, depth)
        braces += {"{": 1, "}": -1}.get(mark[0], 0)
        if braces < 0:
            return inf
    return inf if braces else deepest


def _is_too_high(text: str) -> bool:
    letters = set(_LETTERS.findall(_COMMAND.sub("", text))) | _SYMBOLS.intersection(_COMMAND.findall(text))
    chain = greatest = 1  # of powers of brackets, which multiply where the brackets are nested; of all powers
    for power in _EXPONENT.finditer(text):
        exponent = power[2] or power[3] or power[4] or ""
        height = prod(max(1, int(numeral)) for numeral in _NUMERAL.findall(exponent))
        if _NUMERAL_POWER.search(exponent) or height > MAX_POWER:
            return True
        chain *= height if power[1] else 1
        greatest = max(greatest, height)
        if chain * greatest > 10 * MAX_POWER:
            return True
    return chain > 1 and comb(chain + len(letters), len(letters)) > MAX_TERMS

r"""Compares mathematical expressions: whether an unboxed answer equals the gold, the reference answer.

The rules, in the order in which they apply:

1. Markup is ignored: \left, \right, spaces, surrounding dollar signs, one final full stop, the font of a \text{...}.
2. Words (a gold in \text{...}, or one of four or more letters) are compared as words; (C) is C. Times and ratios (12:30), numbers
   with a base (101_2 is neither 101_3 nor 101), and a gold beyond the limits below are compared as written.
3. Units: 12 inches is 12, because either side may omit its unit, but 5 m is not 5 cm, and 1 m is not 100 cm. A unit is a final
   \text{...} of up to three words (without or, and, not), a known word after a number, or a known letter after a number and a
   space.
4. Percent: 33.5\% is 0.335. A gold of 28\% also accepts 28; a gold of 28 accepts 28\% only with `asks_percent`.
5. A rational gold accepts only a number written out: a decimal, a fraction, 3\frac{1}{2}, 1.5 \times 10^3. Of x = a = b, the last
   side counts. 3+4, \sqrt{49}, a sum and 5! are rejected, because they may repeat the question. Equality is exact, except that a
   decimal with at least `digits` significant digits may round a gold that is not a decimal.
6. Brackets: (2,3) and [2,3] are neither \{2,3\} nor 2, 3. x < 2 or x > 3 is a union of intervals.
7. math-verify compares everything else, within the limits. If the gold has no variable, an answer with a sum, product, integral,
   limit, derivative, factorial or binomial that the gold does not have is rejected. Expressions with variables only need to be
   equal: (x+1)^2 is x^2+2x+1, even if the question was to expand it.

Nothing is evaluated as Python. The limits keep known hostile texts away from the parser. No signal limits the time of other
texts: the caller must run this in a process that it can kill.
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
MAX_POWER = 1000  # exponent of a number or a letter, and the greatest n in n! and \binom
MAX_TERMS = 500  # terms of an expanded power of a bracket with letters

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timeouts are off

_UNEVALUATED = (Sum, Product, Integral, Limit, Derivative, factorial, binomial)
_PRECISION = 60  # digits to which an irrational gold is computed
_DOUBLE = 15  # correct digits of a double that a program printed

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
    """An expression without its unit and percent sign. `name = value` is split; otherwise `value` is the whole text."""

    text: str
    name: str
    value: str
    unit: str
    percent: bool


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
    answer, gold = _without_markup(answer), _without_markup(gold)
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
    must_be_exact = "." in expected.value
    return any(number_given == one or not must_be_exact and _rounds(given.value, one, digits) for one in values)


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


def _without_markup(text: str) -> str:
    """Applies rule 1 and the spellings that the other rules expect; empty if the text is too long."""
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
    """Reads `text` as a number, by rule 5; None if it is not one."""
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
    """Whether `text` is the value rounded or truncated to a decimal with at least `digits` significant digits."""
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
    """The brackets of a list with two or more items: "()" for round or square brackets, "{}" for braces, "," for none."""
    if len(elements(text)) > 1:
        return ","
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return "{}"
    return "()" if "," in text and text[0] in "([" and text[-1] in ")]" else ""


def _is_beyond_limits(text: str) -> bool:
    """Whether the text is too large or too unusual for the parser."""
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
    """The nesting depth of brackets and braces together, because intervals mix them; infinite if the braces are unbalanced."""
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
    chain = greatest = 1  # product of the powers of brackets (nested powers multiply); the greatest power of all
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

"""Finds the boxed answer in a response and compares it exactly with the reference.

Everything here works on text and rational numbers: no floats, no evaluation, no symbolic algebra, and time linear in the text.
The rules are strict: they may reject a right answer in an unusual form, but they never accept a wrong one.
"""

import re
from fractions import Fraction

from vlrl.common.responses import after_reasoning
from vlrl.tasks import BadRow
from vlrl.verifiers.dress import bare_value, is_blank, undress

MAX_ANSWER = 4096

_BOX = re.compile(r"\\boxed\s*\{")
_TAKEN_BACK = re.compile(
    r"\b(?:[Bb]ut|[Nn]o|[Oo]h|[Hh]mm+),? wait\b|(?:^|[.!?\n])[ *$]*(?:[Aa]ctually,? |[Hh]old on,? )?[Ww]ait\b(?=[,.!:;…]|\s*[-—])"
    r"|\b[Hh]mm+\b|\bI should (?:re-?|double[- ])?check\b"
)
_ALTERNATIVE = re.compile(
    r"[\s$*\\(),.;\]]*(?:or|and|and/or|or else|or maybe|or perhaps|or possibly)[\s$*\\(),:\[]*"
)  # between boxes
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is part of the answer, so it is skipped
_PLAIN = r"(?:(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
_SCALAR = re.compile(rf"([+-]?)\s*(?:\\?\$\s*)?({_PLAIN}(?:[eE][+-]?\d{{1,3}})?)")
_QUOTIENT = re.compile(rf"([+-]?)\s*({_PLAIN})\s*/\s*(-?{_PLAIN})")
_FRAC = re.compile(
    rf"([+-]?)\s*\\[dt]?frac\s*(?:\{{\s*(-?{_PLAIN})\s*\}}|(\d))\s*(?:\{{\s*(-?{_PLAIN})\s*\}}|(\d))",
)
_MIXED = re.compile(r"([+-]?) ?(\d+) ?(\\frac.*|(?<= )\d+ ?/ ?\d+)")  # 3\frac{1}{2}, 3 1/2
_POWER_OF_TEN = re.compile(r"(.+?) ?(?:\\times|\\cdot|\*|(?<=\d) ?x) ?10 ?\^ ?(?:\{ ?(-?\d{1,3}) ?\}|(\d))")
_SCALED = re.compile(r"(.+?) ?(%|[kKMB]|(?i:percent|hundred|thousand|million|billion|trillion))", re.ASCII)
_SCALES = {"%": Fraction(1, 100), "percent": Fraction(1, 100), "hundred": Fraction(100), "trillion": Fraction(10**12)}
_SCALES |= dict.fromkeys(["k", "thousand"], Fraction(10**3)) | dict.fromkeys(["m", "million"], Fraction(10**6))
_SCALES |= dict.fromkeys(["b", "billion"], Fraction(10**9))
_CURRENCIES = str.maketrans("€£¥₹", "$$$$")
_COMMA = re.compile(r",\\!\s*|\{,\}|(?<=\d)(?:\\[,;:! ]|~)(?=\d)")  # LaTeX's thousands separators


def last_boxed(response: str, *, literal: bool = False) -> str | None:
    """The content of the last \\boxed{...} after the reasoning, stripped; None if there is no box, or nothing in it.

    Only the last box counts. The result is None, even with an earlier box, if the last one is blank (empty braces, spaces or
    marks), is not closed within 4,096 characters, is joined to another one by "or" or "and", or is taken back by the text after
    it ("but wait", "hmm", "I should check"), as in reasoning that was cut off.

    literal: empty braces are an answer, as Python's empty dict.

    >>> last_boxed(r"\\boxed{1} no, \\boxed{\\frac{1}{2}}")
    '\\\\frac{1}{2}'
    """
    text = after_reasoning(response)
    boxes = [box.span() for box in _BOX.finditer(text)]
    if not boxes:
        return None
    (opening, start), end = boxes[-1], _closing_brace(text, boxes[-1][1])
    if end is None:
        return None
    content = text[start:end].strip()
    if len(boxes) > 1 and (before := _closing_brace(text, boxes[-2][1])) is not None:
        other = text[boxes[-2][1] : before].strip()
        if other != content and _ALTERNATIVE.fullmatch(text, before + 1, opening):
            return None
    if is_blank(text[start:end]) and not (literal and content == "{}"):
        return None
    return None if _TAKEN_BACK.search(text[end + 1 :]) else content


def _closing_brace(text: str, start: int) -> int | None:
    """Where the brace closes that is open at `start`; None if it does not close within 4,096 characters."""
    depth = 1
    for brace in _BRACE.finditer(text, start, start + MAX_ANSWER + 1):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.start()
    return None


def number(text: str) -> Fraction | None:
    """Reads `text` as an exact number; None if it is anything else, such as a sum, a unit, a percentage or two numbers.

    Accepts 12, -3.50, .5 and 1e3; thousands in complete groups (1,234; 1{,}234; 1\\,234); a/b, \\frac{a}{b} and \\frac12, also
    with \\dfrac and \\tfrac. A leading dollar sign, surrounding dollar signs or white space, and one final full stop are ignored.
    The text must be ASCII, with at most 4,096 characters.

    >>> number(r"-\\$1,234.50"), number("3+4"), number("1,23")
    (Fraction(-2469, 2), None, None)
    """
    if not text.isascii() or len(text) > MAX_ANSWER:
        return None
    text = _COMMA.sub(",", text.strip().removesuffix(".").strip("$").strip())
    if scalar := _SCALAR.fullmatch(text):
        sign, digits = scalar.groups()
        value = _fraction(digits)
    elif ratio := _QUOTIENT.fullmatch(text) or _FRAC.fullmatch(text):
        sign, *parts = ratio.groups()
        top, bottom = (_fraction(part) for part in parts if part)
        if not bottom:
            return None
        value = top / bottom
    else:
        return None
    return -value if sign == "-" else value


def quantity(text: str, *, is_bare: bool = False) -> Fraction | None:
    """Reads `text` as one number in any dress of `dress.py`; None if it is anything else, such as a sum or two numbers.

    Beside the forms of `number`: 1.3 \\times 10^1, 3\\frac{1}{2}, and a scale (%, percent, hundred, k, K, M, B, thousand,
    million, billion, trillion): 5% is 0.05. A unit or the thing counted is ignored, so 13 cm is 13. is_bare: no lead-in, equation
    or unit is allowed.

    >>> quantity(r"x = 13\\text{ cm}"), quantity("3.5 million people"), quantity(r"1.3 \\times 10^1"), quantity("**-13**")
    (Fraction(13, 1), Fraction(3500000, 1), Fraction(13, 1), Fraction(-13, 1))
    >>> quantity("13 or 14"), quantity("12+1"), quantity("13-14"), quantity("2x = 26"), quantity("13 cm", is_bare=True)
    (None, None, None, None, None)
    """
    if len(text) > MAX_ANSWER:
        return None
    value = (undress(text) if is_bare else bare_value(text)).translate(_CURRENCIES)
    if scaled := _SCALED.fullmatch(value):
        factor = written_number(scaled[1])
        return None if factor is None else factor * _SCALES[scaled[2].lower()]
    return written_number(value)


def same_number(answer: str, gold: str) -> bool:
    """Whether the answer, read by `quantity`, is the reference exactly. Raises BadRow if the reference is not a bare number.

    >>> same_number("12.0", "12"), same_number(r"\\frac{2}{4}", "0.5"), same_number("0.333333", "1/3"), same_number("12 m", "12")
    (True, True, False, True)
    """
    expected = number(undress(gold))
    if expected is None:
        raise BadRow(f"the reference answer {gold!r} is not a number")
    return quantity(answer) == expected


def same_text(answer: str, gold: str) -> bool:
    """Whether both are the same words. Ignores case, white space, marks and fonts (as `undress` of dress.py).

    An empty answer is never right, and differs from an empty reference too.

    >>> same_text(" Yes.", "yes"), same_text(r"\\textbf{Yes}", "yes"), same_text("Yes and no", "yes"), same_text("", "")
    (True, True, False, False)
    """
    return bool(words := plain_words(answer)) and words == plain_words(gold)


def written_number(text: str) -> Fraction | None:
    """A number, a mixed number such as 3\\frac{1}{2}, or a number times a power of ten; None if the text is anything else."""
    if (value := number(text)) is not None:
        return value
    if mixed := _MIXED.fullmatch(text):
        whole, part = number(mixed[2]), number(mixed[3])
        if whole is None or part is None or not 0 < part < 1:
            return None
        return -(whole + part) if mixed[1] == "-" else whole + part
    if power := _POWER_OF_TEN.fullmatch(text):
        factor = number(power[1])
        return None if factor is None else factor * Fraction(10) ** int(power[2] or power[3])
    return None


def plain_words(text: str) -> str:
    """The undressed text in lower case.

    >>> plain_words("**The  Blue** one.")
    'the blue one'
    """
    return undress(text).casefold()


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))

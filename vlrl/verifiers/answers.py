"""Finds the boxed answer in a response and compares it exactly with the reference.

Everything here works on text and rational numbers: no floats, no evaluation, no symbolic algebra, and time linear in the text.
The rules are strict: they may reject a right answer in an unusual form, but they never accept a wrong one.
"""

import re
from fractions import Fraction

from vlrl.common.responses import after_reasoning
from vlrl.tasks import BadRow

MAX_ANSWER = 4096

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is part of the answer, so it is skipped
_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|mbox|math(?:bf|it|rm))\s*\{([^{}]*)\}")  # words in some font
_PLAIN = r"(?:(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
_SCALAR = re.compile(rf"([+-]?)\s*(?:\\?\$\s*)?({_PLAIN}(?:[eE][+-]?\d{{1,3}})?)")
_QUOTIENT = re.compile(rf"([+-]?)\s*({_PLAIN})\s*/\s*(-?{_PLAIN})")
_FRAC = re.compile(
    rf"([+-]?)\s*\\[dt]?frac\s*(?:\{{\s*(-?{_PLAIN})\s*\}}|(\d))\s*(?:\{{\s*(-?{_PLAIN})\s*\}}|(\d))",
)
_COMMA = re.compile(r",\\!\s*|\{,\}|(?<=\d)(?:\\[,;:! ]|~)(?=\d)")  # LaTeX's thousands separators


def last_boxed(response: str) -> str | None:
    """The content of the last \\boxed{...} after the reasoning, stripped; None if there is no box.

    Only the last box counts. If its brace is not closed within 4,096 characters, the result is None, even with an earlier box.

    >>> last_boxed(r"\\boxed{1} no, \\boxed{\\frac{1}{2}}")
    '\\\\frac{1}{2}'
    """
    text = after_reasoning(response)
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    depth = 1
    for brace in _BRACE.finditer(text, start, start + MAX_ANSWER + 1):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start : brace.start()].strip()
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


def same_number(answer: str, gold: str) -> bool:
    """Whether both are the same number by the rules of `number`. Raises BadRow if the reference is not a number.

    >>> same_number("12.0", "12"), same_number(r"\\frac{2}{4}", "0.5"), same_number("0.333333", "1/3")
    (True, True, False)
    """
    expected = number(gold)
    if expected is None:
        raise BadRow(f"the reference answer {gold!r} is not a number")
    return number(answer) == expected


def same_text(answer: str, gold: str) -> bool:
    """Whether both are the same words. Ignores case, white space, the font of a \\text{...} and one final full stop.

    >>> same_text(" Yes.", "yes"), same_text(r"\\text{Yes}", "yes"), same_text("Yes and no", "yes")
    (True, True, False)
    """
    return _words(answer) == _words(gold)


def _words(text: str) -> str:
    return " ".join(_TEXT.sub(r"\1", text).casefold().split()).removesuffix(".").rstrip()


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))

"""Compares what a program prints with the expected output."""

import math
import re
from decimal import Decimal

_REAL = re.compile(r"[+-]?(?=.{1,400}$)(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_MAX_POWER = 12  # as exact as floats of usual sizes are
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n")
_ALLOWS = re.compile(r"\b(?:error|errors|accepted|correct|accuracy|precision|tolerance|within|close)\b", re.IGNORECASE)
_POWER = re.compile(
    r"(?<![\d.])(?:10\s*(?:\^|\*\*|<sup>)?\s*[{(]?\s*(?:\\?[-\u2212\u2013]|\u207b)\s*(?P<power>\d{1,2}|[\u2070\u00b9\u00b2\u00b3\u2074-\u2079])"
    r"|1(?:\.0+)?[eE][-\u2212](?P<exponent>\d{1,2})|(?P<decimal>0?\.0*1))(?![\d.]*\d)"
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def same_output(printed: str, expected: str, tolerance: float = 0.0) -> bool:
    """Whether two outputs have the same lines. White space at line ends and empty lines at the end are ignored.

    A number that is expected with a decimal point or exponent may be written in another way, and may differ by `tolerance`,
    absolutely or relative to its size. A whole number must be the same, unless there is a tolerance and it is printed as a float.

    >>> same_output("1 2 \\n3\\n\\n", "1 2\\n3"), same_output("1  2", "1 2")
    (True, False)
    >>> same_output("2.5", "2.50"), same_output("0.3333", "0.3334"), same_output("0.3333", "0.3334", 1e-3)
    (True, False, True)
    """
    lines, expected_lines = _lines(printed), _lines(expected)
    return len(lines) == len(expected_lines) and all(
        line == want or _same_words(line.split(" "), want.split(" "), tolerance)
        for line, want in zip(lines, expected_lines, strict=True)
    )


def stated_tolerance(question: str) -> float:
    """The largest error of an output that a problem's text allows, as "an error of at most 1e-6" does; 0.0 if it allows none.

    Reads powers of ten, in sentences about an error, a precision or accepted answers. The smallest one counts.

    >>> stated_tolerance("Print the area. The absolute or relative error must not exceed $10^{-6}$.")
    1e-06
    """
    sentences = [sentence for sentence in _SENTENCE.split(question) if _ALLOWS.search(sentence)]
    powers = [_exponent(found) for sentence in sentences for found in _POWER.finditer(sentence)]
    powers = [power for power in powers if 0 < power <= _MAX_POWER]
    return float(f"1e-{max(powers)}") if powers else 0.0


def _exponent(found: re.Match[str]) -> int:
    if found["decimal"]:
        return len(found["decimal"].partition(".")[2])
    return int((found["power"] or found["exponent"]).translate(_SUPERSCRIPTS))


def _same_words(words: list[str], expected: list[str], tolerance: float) -> bool:
    return len(words) == len(expected) and all(
        word == want or _same_real(word, want, tolerance) for word, want in zip(words, expected, strict=True)
    )


def _same_real(word: str, want: str, tolerance: float) -> bool:
    if (
        not (_REAL.fullmatch(word) and _REAL.fullmatch(want))
        or _WHOLE.fullmatch(want)
        and (not tolerance or _WHOLE.fullmatch(word))
    ):
        return False
    if Decimal(word) == Decimal(want):
        return True
    return tolerance > 0 and math.isclose(float(word), float(want), rel_tol=tolerance, abs_tol=tolerance)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]

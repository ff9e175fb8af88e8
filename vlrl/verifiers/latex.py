r"""LaTeX to sympy, by math-verify's parser without what it hands to Python.

That parser makes its numbers with sympy.Number(text), which is Python's eval with all of sympy imported for each: slow, and no
place for a model's text. Here a number is made from its digits.
"""

import re
from typing import Any

from latex2sympy2_extended import NormalizationConfig, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from latex2sympy2_extended.logic import And
from math_verify.grader import should_treat_as_complex
from sympy import Basic, Float, Integer, MatrixBase, Number, Union
from sympy.core.relational import GreaterThan, StrictGreaterThan

_SPELLINGS = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
NAME = re.compile(r"[A-Za-z](?:_\w|_\{\w+\})?|\\[a-z]+|[a-z]\([a-z]\)")
BRACKET = re.compile(r"\\[{}]|[()\[\]{},;]")
STEP = {"(": 1, "[": 1, "{": 1, r"\{": 1, ")": -1, "]": -1, "}": -1, r"\}": -1}
_OR = re.compile(r" ?(?:\\text\{ ?or ?\}|\\lor(?![A-Za-z])|\bor\b) ?")
RELATION = re.compile(r"[<>]|\\(?:leq?|geq?|lt|gt|neq?)(?![A-Za-z])")
_CASED = ConversionConfig(lowercase_symbols=False)  # R^2 - r^2 is not 0
_GROUPED = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")


def parsed(text: str) -> Any:
    """The expression that math-verify's parser makes of the text, or the union of those around `or`; None without one."""
    parts = _OR.split(text)
    if len(parts) > 1 and all(map(RELATION.search, parts)):
        relations = [parsed(part) for part in parts]
        if None in relations or len({letter for relation in relations for letter in relation.free_symbols}) != 1:
            return None
        try:
            return Union(*(relation.as_set() for relation in relations))
        except Exception:  # sympy's, of many kinds: what it cannot turn into a set cannot be read
            return None
    spread = _spread(text)
    try:
        read = _Reader(is_real=not should_treat_as_complex(text), config=_CASED).parse(normalize_latex(spread, _SPELLINGS))
    except Exception:  # the parser's, which are of any kind for a text that is no mathematics
        return None
    return _rising(read) if isinstance(read, (Basic, MatrixBase)) else None


def _rising(read: Any) -> Any:
    """The chain 3 > x > 1 as 1 < x < 3, since chains are compared link by link; all else as it is."""
    if isinstance(read, And) and all(isinstance(link, GreaterThan | StrictGreaterThan) for link in read._unsorted_args):
        return And(*(link.reversed for link in reversed(read._unsorted_args)), evaluate=False)
    return read


def _spread(text: str) -> str:
    r"""The text in the parser's grammar, which knows neither x = 1, x = 2 nor the \pm of \frac{1 \pm \sqrt5}{2}.

    >>> _spread(r"x = 1, x = \frac{1 \pm a}{2}")
    'x = 1, \\frac{1 + a}{2}, \\frac{1 - a}{2}'
    """
    first, *others = elements(text)
    if others and (name := NAME.match(first)):
        others = [re.sub(rf"^{re.escape(name[0])} ?= ?", "", other) for other in others]
    spread = []
    for element in [first, *others]:
        both = r"\pm" in element and r"\{" not in element
        spread += [element.replace(r"\pm", "+"), element.replace(r"\pm", "-")] if both else [element]
    return ", ".join(spread)


def elements(text: str) -> list[str]:
    """What commas outside of brackets and braces part.

    >>> elements("(2,3), x = 4")
    ['(2,3)', 'x = 4']
    """
    depth = 0
    cuts = [-1]
    for mark in BRACKET.finditer(text):
        depth += STEP.get(mark[0], 0)
        if mark[0] == "," and depth == 0:
            cuts.append(mark.start())
    return [text[start + 1 : end].strip() for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


class _Reader(_Latex2Sympy):
    """The parser with numbers that are read, not evaluated."""

    def parse(self, latex_str: str) -> Any:
        return self.parse_number(latex_str.strip()) if _GROUPED.fullmatch(latex_str.strip()) else super().parse(latex_str)

    def parse_number(self, text: str) -> Number:
        digits = text.replace(",", "")
        return Integer(digits) if digits.lstrip("-").isdecimal() else Float(digits)

r"""Converts LaTeX to sympy with math-verify's parser, without evaluating text as Python.

That parser creates numbers with sympy.Number(text), which calls Python's eval and imports all of sympy each time. This is slow,
and unsafe for text from a model. Here numbers are created from their digits.
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
    """The expression that math-verify reads from the text, or the union of relations joined by `or`; None if it is unreadable."""
    parts = _OR.split(text)
    if len(parts) > 1 and all(map(RELATION.search, parts)):
        relations = [parsed(part) for part in parts]
        if None in relations or len({letter for relation in relations for letter in relation.free_symbols}) != 1:
            return None
        try:
            return Union(*(relation.as_set() for relation in relations))
        except Exception:  # sympy raises many kinds of errors for a relation that it cannot turn into a set
            return None
    expanded = _expand_solutions(text)
    reader = _Reader(is_real=not should_treat_as_complex(text), config=_CASED)
    try:
        expression = reader.parse(normalize_latex(expanded, _SPELLINGS))
    except Exception:  # the parser raises many kinds of errors for text that is not mathematics
        return None
    return _ascending(expression) if isinstance(expression, (Basic, MatrixBase)) else None


def _ascending(expression: Any) -> Any:
    """Rewrites the chain 3 > x > 1 as 1 < x < 3, because chains are compared link by link. Leaves other expressions unchanged."""
    if isinstance(expression, And) and all(
        isinstance(link, GreaterThan | StrictGreaterThan) for link in expression._unsorted_args
    ):
        return And(*(link.reversed for link in reversed(expression._unsorted_args)), evaluate=False)
    return expression


def _expand_solutions(text: str) -> str:
    r"""Rewrites x = 1, x = 2 and the \pm of \frac{1 \pm \sqrt5}{2}, which the parser does not know, as lists of values.

    >>> _expand_solutions(r"x = 1, x = \frac{1 \pm a}{2}")
    'x = 1, \\frac{1 + a}{2}, \\frac{1 - a}{2}'
    """
    first, *others = elements(text)
    if others and (name := NAME.match(first)):
        others = [re.sub(rf"^{re.escape(name[0])} ?= ?", "", other) for other in others]
    expanded = []
    for element in [first, *others]:
        has_both_signs = r"\pm" in element and r"\{" not in element
        expanded += [element.replace(r"\pm", "+"), element.replace(r"\pm", "-")] if has_both_signs else [element]
    return ", ".join(expanded)


def elements(text: str) -> list[str]:
    """Splits the text at commas that are outside of brackets and braces.

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
    """math-verify's parser, except that it creates numbers from their digits instead of evaluating them."""

    def parse(self, latex_str: str) -> Any:
        return self.parse_number(latex_str.strip()) if _GROUPED.fullmatch(latex_str.strip()) else super().parse(latex_str)

    def parse_number(self, text: str) -> Number:
        digits = text.replace(",", "")
        return Integer(digits) if digits.lstrip("-").isdecimal() else Float(digits)

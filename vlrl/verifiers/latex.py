r"""Converts LaTeX to sympy with math-verify's parser, without evaluating text as Python.

That parser creates numbers with sympy.Number(text), which calls Python's eval and imports all of sympy each time. This is slow,
and unsafe for text from a model. Here numbers are created from their digits.
"""

import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from latex2sympy2_extended.logic import And
from sympy import Basic, Intersection, MatrixBase, Rational, Union
from sympy.core.relational import GreaterThan, StrictGreaterThan

_SPELLINGS = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
BRACKET = re.compile(r"\\[{}]|[()\[\]{},;]")
STEP = {"(": 1, "[": 1, "{": 1, r"\{": 1, ")": -1, "]": -1, "}": -1, r"\}": -1}
_OR = re.compile(r" ?(?:\\text\{ ?or ?\}|\\lor(?![A-Za-z])|\bor\b) ?")
_AND = re.compile(r" ?(?:\\text\{ ?and ?\}|\\land(?![A-Za-z])|\\wedge(?![A-Za-z])|\band\b|,) ?")
_MIXED = re.compile(r"(?<![\w.^}])(\d+) ?\\frac ?(?:\{ ?(\d+) ?\}|(\d)) ?(?:\{ ?(\d+) ?\}|(\d))")
RELATION = re.compile(r"[<>]|\\(?:leq?|geq?|lt|gt|neq?)(?![A-Za-z])")
_CASED = ConversionConfig(lowercase_symbols=False)  # R^2 - r^2 is not 0
_GROUPED = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")


@lru_cache(maxsize=512)  # the answers to a question share its gold
def parsed(text: str) -> Any:
    """The expression that math-verify reads from the text, or the set of joined relations; None if unreadable."""
    for joint, kind in ((_OR, Union), (_AND, Intersection)):
        parts = joint.split(text)
        if len(parts) > 1 and all(map(RELATION.search, parts)):
            return _joined(kind, parts)
    reader = _Reader(is_real=True, config=_CASED)
    try:
        expression = reader.parse(normalize_latex(_MIXED.sub(_as_fraction, _with_both_signs(text)), _SPELLINGS))
    except Exception:  # the parser raises many kinds of errors for text that is not mathematics
        return None
    return _ascending(expression) if isinstance(expression, (Basic, MatrixBase)) else None


def _joined(kind: type[Union] | type[Intersection], parts: list[str]) -> Any:
    """The union or intersection of relations in the same letter; None if there is none."""
    relations = [parsed(part) for part in parts]
    if None in relations or len({letter for relation in relations for letter in relation.free_symbols}) != 1:
        return None
    try:
        return kind(*(relation.as_set() for relation in relations))
    except Exception:  # sympy raises many kinds of errors for a relation that it cannot turn into a set
        return None


def _as_fraction(mixed: re.Match[str]) -> str:
    r"""2\frac{1}{2} as \frac{5}{2}, because the parser reads 2\frac{1}{2}\pi as a product."""
    whole, top, bottom = (int(part) for part in mixed.groups() if part)
    return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}" if top < bottom else mixed.group()


def _ascending(expression: Any) -> Any:
    """Rewrites the chain 3 > x > 1 as 1 < x < 3, because chains are compared link by link. Leaves other expressions unchanged."""
    if isinstance(expression, And) and all(
        isinstance(link, GreaterThan | StrictGreaterThan) for link in expression._unsorted_args
    ):
        return And(*(link.reversed for link in reversed(expression._unsorted_args)), evaluate=False)
    return expression


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


def _with_both_signs(text: str) -> str:
    r"""Writes \frac{1 \pm \sqrt5}{2}, which the parser does not know outside of sets, as a list of two values.

    >>> _with_both_signs(r"2, \frac{1 \pm a}{2}")
    '2, \\frac{1 + a}{2}, \\frac{1 - a}{2}'
    """
    parts = []
    for part in elements(text):
        has_both_signs = r"\pm" in part and r"\{" not in part
        parts += [part.replace(r"\pm", "+"), part.replace(r"\pm", "-")] if has_both_signs else [part]
    return ", ".join(parts)


class _Reader(_Latex2Sympy):
    """math-verify's parser, except that it creates numbers from their digits instead of evaluating them."""

    def parse(self, latex_str: str) -> Any:
        return self.parse_number(latex_str.strip()) if _GROUPED.fullmatch(latex_str.strip()) else super().parse(latex_str)

    def parse_number(self, text: str) -> Rational:
        whole, _, places = text.replace(",", "").partition(".")
        return Rational(int(whole + places), 10 ** len(places))

"""Keeps texts away from the LaTeX parser that are too large or too unusual for it, by cheap static limits."""

import re
from math import comb, inf, prod

from vlrl.verifiers.latex import BRACKET, STEP

MAX_DEPTH = 16
MAX_COMMANDS = 256
MAX_OPERATORS = 1024
MAX_ELEMENTS = 64
MAX_POWER = 3000  # exponent of a number or a letter
MAX_TERMS = 500  # terms of an expanded power of a bracket with letters

_LETTERS = re.compile(r"[A-Za-z]")
_NUMERAL = re.compile(r"\d+")
_LONG_NUMERAL = re.compile(r"\d{257}")

_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SYMBOLS = frozenset(
    """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi
    varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega""".split()  # noqa: SIM905
)
_COMMANDS = _SYMBOLS | frozenset(
    """frac sqrt binom sum prod int lim to infty cdot times div pm mp circ prime sin cos tan sec csc cot arcsin arccos arctan
    sinh cosh tanh log ln exp le leq ge geq lt gt ne neq approx in notin cup cap setminus emptyset mathbb text begin end lor land
    wedge ldots dots cdots lfloor rfloor lceil rceil langle rangle vert lvert rvert mid overline bar vec hat pi""".split()  # noqa: SIM905
)
_HOSTILE = re.compile(
    r"""__|['"`$@#]|import|(?<!\\)lambda|\\text\{[^{}]*(?:[(_]|\} ?\()"""
    r"|\^ ?\w ?\^|(?:\|[^|]*){9}|vmatrix|\| ?\\begin|\\end\{[a-z]*\}[)\]} ]*\^"  # towers, determinants, powers of a matrix
    r"|!\W*!|\d{4,} ?!|(?:\d\d|\^)[^(){}]*[)}] ?!|\^ ?\{[^{}]*!"  # factorials that are long to write out
    r"|\\binom ?\{[^{}]*(?:\d{4}|\^)|\\binom ?\{[^{}]*\} ?\{[^{}]*(?:\d{4}|\^)"
)
_EXPONENT = re.compile(r"([)}]?) ?\^ ?(?:\{((?:[^{}]|\{[^{}]*\})*)\}|\(([^()]*)\)|(\d+|.))")
_NUMERAL_POWER = re.compile(r"\d[ )}]*\^")


def is_beyond_limits(text: str) -> bool:
    """Whether the text is too large or too unusual for the parser."""
    commands = _COMMAND.findall(text)
    return (
        not text.isascii()
        or len(commands) > MAX_COMMANDS
        or not _COMMANDS.issuperset(commands)
        or sum(map(text.count, "+-*/^=<>|")) + commands.count("cdot") > MAX_OPERATORS
        or sum(map(text.count, ",;&")) > MAX_ELEMENTS
        or bool(_LONG_NUMERAL.search(text) or _HOSTILE.search(text))
        or depth(text) > MAX_DEPTH
        or _is_too_high(text)
    )


def depth(text: str) -> float:
    """The nesting depth of brackets and braces together, because intervals mix them; infinite if the braces are unbalanced."""
    level = deepest = braces = 0
    for mark in BRACKET.finditer(text):
        level += STEP.get(mark[0], 0)
        deepest = max(deepest, level)
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

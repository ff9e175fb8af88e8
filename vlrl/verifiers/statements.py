r"""Splits a statement such as f(x) = x^2 \text{ for all real } x into what is named, its value, and for which letters it holds.

A name is what a question may ask for: a letter, f(3), \angle ABC, a segment AB, a word, or a sum or product of different letters,
such as a+b+c. An equation that its reader has yet to solve, such as x^2 = 5 or 2x = 6, is not a name with a value.
"""

import re

from vlrl.verifiers.answers import number
from vlrl.verifiers.latex import RELATION, elements

_GREEK = r"\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|theta|lambda|mu|nu|xi|rho|sigma|tau|phi|varphi|psi|omega|Delta|Omega)"
_LETTER = rf"(?:[A-Za-z]|{_GREEK}(?![A-Za-z]))(?:_(?:\w|\{{[\w, +-]+\}}))?"
_SUM = re.compile(rf"{_LETTER}(?: ?(?:[-+]|\\cdot)? ?{_LETTER})+")
_NAME = re.compile(
    rf"{_LETTER}|[A-Za-z](?:_\w)? ?(?:\^ ?\{{? ?-1 ?\}}?)? ?\( ?[\w, ]+\)|\( ?{_LETTER}(?: ?, ?{_LETTER})+ ?\)"
    r"|(?:m ?)?(?:\\(?:angle|measuredangle|overline|triangle|vec|overrightarrow) ?)?\{? ?[A-Z]{1,4} ?\}?(?:_\w)?"
    r"|\[[A-Z]{3,5}\]|\|[A-Z]{2}\|"
    rf"|\\(?:sin|cos|tan|cot|sec|csc|ln|log) ?(?:\\angle ?)?(?:{_LETTER}|\( ?{_LETTER} ?\))"
    r"|\\text\{ ?[A-Za-z]+(?: [A-Za-z]+){0,3} ?\}|[A-Za-z]{4,}(?: [A-Za-z]+){0,3}"
)
_PLAIN = re.compile(r"[ {}]|\\text|\\measured(?=angle)|^m(?= ?\\(?:measured)?angle)")
_NO_LETTERS = re.compile(r"(?:\\(?:frac|sqrt|cdot|times|div|binom|pi|text)(?![A-Za-z])|[^A-Za-z\\])*")
_ALTERNATIVE = re.compile(r" ?(?:\\text\{ ?(?:or|and) ?\}|\\lor(?![A-Za-z])|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z])) ?")

_CONDITION = re.compile(
    r"(?: ?[,;])? ?\(?(?:(?:\\text\{ ?,? ?)?(?<![A-Za-z])(?:for|where|with)(?![A-Za-z])|\\forall(?![A-Za-z])"
    r"|(?:(?<=, )|(?<=,)|(?<=\())(?=[a-z](?:, ?[a-z])* ?\\in ?\\mathbb))(.*)$"
)
_DOMAINS = {"real": "R", "integer": "Z", "natural": "N", "rational": "Q", "complex": "C", "positive": "+", "negative": "-"}
_DOMAINS |= {"nonnegative": "0+", "non-negative": "0+", "nonzero": "0", "non-zero": "0"}
_CONDITION_PART = re.compile(
    r"\\mathbb ?\{(?P<set>[A-Z])\}(?: ?\^ ?\{? ?(?P<sign>[+*-]) ?\}?)?|\\(?:in|text|theta|alpha|beta|lambda)(?![A-Za-z])"
    r"|[{}(), .]"
    rf"|(?P<word>{'|'.join(sorted(_DOMAINS, key=len, reverse=True))})s?(?![A-Za-z])"
    r"|(?:all|every|any|each|some|is|are|be|an|the|arbitrary|constants?|numbers?|values?|of|in|and)(?![A-Za-z])"
    r"|[A-Za-z](?![A-Za-z])"
)


def named(text: str) -> tuple[str, str]:
    r"""The name and the value of `name = value`, its sides in any order; an empty name and the text for anything else.

    Of x = a = b, the last side counts, if no numbers among the sides differ. x = 1 or x = 2 is the name of a list. x = 1, y = 2
    is the point of the names in alphabetical order.

    >>> named("a+b+c = 62"), named("x = 2, x = 3"), named("y = 5 and x = 4"), named("x^2 = 5")
    (('a+b+c', '62'), ('x', '2, 3'), ('(x,y)', '(4, 5)'), ('', 'x^2 = 5'))
    """
    if "=" not in text or RELATION.search(text):
        return "", text
    parts = [part for element in elements(text) for part in _ALTERNATIVE.split(element)]
    if sum("=" in part for part in parts) > 1:
        return _several(text, [part for part in parts if part])
    first, *others = (side.strip() for side in text.split("="))
    numbers = {value for side in others if (value := number(side)) is not None}
    if len(numbers) > 1 or len(parts) > 1 and "=" not in parts[0]:
        return "", text
    if is_name(first):
        return _PLAIN.sub("", first), others[-1]
    if len(others) == 1 and is_name(others[-1]):
        return _PLAIN.sub("", others[-1]), first
    return "", others[-1] if _NO_LETTERS.fullmatch(first) and _NO_LETTERS.fullmatch(others[-1]) else text


def _several(text: str, parts: list[str]) -> tuple[str, str]:
    sides = [[side.strip() for side in part.split("=")] for part in parts]
    if not all(len(each) == 2 and is_name(each[0]) for each in sides):
        return "", text
    pairs = [(_PLAIN.sub("", name), value) for name, value in sides]
    names = sorted({name for name, _ in pairs})
    if len(names) == 1:
        return names[0], ", ".join(value for _, value in pairs)
    if len(names) < len(pairs):
        return "", text
    return f"({','.join(names)})", f"({', '.join(value for _, value in sorted(pairs))})"


def is_name(text: str) -> bool:
    """Whether the text is what a question may ask for, not an equation's side."""
    if _NAME.fullmatch(text):
        return True
    letters = re.findall(_LETTER, text)
    return bool(_SUM.fullmatch(text)) and len(letters) == len(set(letters))


def without_condition(text: str) -> tuple[str, frozenset[str]]:
    r"""The text before a closing such as `for all real x` or `, k \in \mathbb{Z}`, and the sets that the closing names.

    A closing with a number or a relation, such as `for x > 2`, is part of the answer and stays.

    >>> without_condition(r"2x \text{ for all real } x"), without_condition("2 for x>1")
    (('2x', frozenset({'R'})), ('2 for x>1', frozenset()))
    >>> without_condition(r"k\pi, k \in \mathbb{Z}") == ("k\\pi", frozenset({"Z"}))
    True
    """
    closing = _CONDITION.search(text)
    if closing is None or not closing.start():
        return text, frozenset()
    parts = list(_CONDITION_PART.finditer(closing[1]))
    if "".join(part.group() for part in parts) != closing[1]:
        return text, frozenset()
    sets = [_DOMAINS.get(part["word"]) or (part["set"] or "") + (part["sign"] or "") for part in parts]
    return text[: closing.start()].rstrip(" ,("), frozenset(filter(None, sets))

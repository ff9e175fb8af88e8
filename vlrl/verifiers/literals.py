"""Compares Python literals: the answer is a value that a program returns or prints.

If the answer is not a literal as it is, it is read again without the marks or the font around all of it, and with LaTeX's
braces and underscores as Python writes them. Nothing else is dress here, because spaces and marks may be inside a text.
A literal is a number, text, bytes, True, False, None, or a list, tuple, set or dict of them. Nothing is executed. A literal may
have at most 4,096 characters, and at most 64 opening brackets of each kind.
"""

import ast
import re
from typing import Any

from vlrl.tasks import BadRow
from vlrl.verifiers.answers import MAX_ANSWER
from vlrl.verifiers.code import same_value

MAX_DEPTH = 64
_NOTHING = object()
_ESCAPED = re.compile(r"\\([{}_])")
_WRAPPED = re.compile(r"\\(?:text|math)[a-z]*\s*\{(.*)\}|\$(.*)\$|\*\*(.*)\*\*|\\\((.*)\\\)", re.DOTALL)


def same_literal(answer: str, gold: str) -> bool:
    """Whether both are literals of the same value and type. Raises BadRow if the reference is not a literal.

    >>> same_literal("[1, 'a']", '[1, "a"]'), same_literal("True", "1"), same_literal("1 + 1", "2")
    (True, False, False)
    """
    expected = _read(gold)
    if expected is _NOTHING:
        raise BadRow(f"the reference {gold!r} is not a Python literal")
    value = _read(answer)
    if value is _NOTHING and len(answer) <= MAX_ANSWER:
        value = _read(_ESCAPED.sub(r"\1", _unwrapped(answer)))
    return value is not _NOTHING and same_value(value, expected)


def _unwrapped(text: str) -> str:
    text = text.strip().removesuffix(".").rstrip()
    while wrapped := _WRAPPED.fullmatch(text):
        text = wrapped[wrapped.lastindex or 0].strip()
    return text


def _read(text: str) -> Any:
    text = text.strip().strip("`").strip()
    if len(text) > MAX_ANSWER or max(map(text.count, "([{")) > MAX_DEPTH:
        return _NOTHING
    try:
        tree = ast.parse(text, mode="eval")
        if any(isinstance(node, ast.BinOp) for node in ast.walk(tree)):  # literal_eval accepts 1 + 2j
            return _NOTHING
        return ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _NOTHING

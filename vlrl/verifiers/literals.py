"""Python values as answers: what a program returns or prints, written as a literal.

Read are numbers, text, bytes, True, False, None, and lists, tuples, sets and dicts of them; nothing is run. At most 4,096
characters, and 64 brackets deep.
"""

import ast
from typing import Any

from vlrl.tasks import BadRow
from vlrl.verifiers.answers import MAX_ANSWER
from vlrl.verifiers.code import same_value

MAX_DEPTH = 64
_NOTHING = object()


def same_literal(answer: str, gold: str) -> bool:
    """Whether both are literals of one value, in type too. BadRow where the reference is no literal.

    >>> same_literal("[1, 'a']", '[1, "a"]'), same_literal("True", "1"), same_literal("1 + 1", "2")
    (True, False, False)
    """
    expected = _read(gold)
    if expected is _NOTHING:
        raise BadRow(f"the reference {gold!r} is not a literal")
    value = _read(answer)
    return value is not _NOTHING and same_value(value, expected)


def _read(text: str) -> Any:
    text = text.strip().strip("`").strip()
    if len(text) > MAX_ANSWER or max(map(text.count, "([{")) > MAX_DEPTH:
        return _NOTHING
    try:
        tree = ast.parse(text, mode="eval")
        if any(isinstance(node, ast.BinOp) for node in ast.walk(tree)):  # literal_eval would add 1 + 2j, and nothing else
            return _NOTHING
        return ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _NOTHING

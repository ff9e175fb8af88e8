"""Finds the Python code in a response."""

import re
import textwrap
from collections.abc import Iterator

from vlrl.verifiers.answers import after_reasoning

_OPENING = re.compile(r"(?:^[ \t]*(?P<fence>`{3,}|~{3,})|(?P<inline>`{3,})(?=py))(?P<language>[^\n`]*)$", re.M | re.I)
_PYTHON = re.compile(r"\{?\.?i?py(?:thon)?[\d.]*\}?(?:[\s:,{].*)?", re.I)
_STRING_OR_COMMENT = r"""
    \#[^\n]*
    | \"{3} (?: \\. | [^\\] )*? \"{3} | '{3} (?: \\. | [^\\] )*? '{3}
    | \" (?: \\. | [^"\\\n] )* \" | ' (?: \\. | [^'\\\n] )* '
"""
_MODULE_START = re.compile(r"(?:\s*#[^\n]*\n)*\s*(?:def|class|async\s+def|import|from\s+[\w.]+\s+import|@\w[\w.]*)\b")
_STATEMENT = re.compile(r"^[ \t]*(?:def|class|import|from|for|while|if|return|print)\b|\binput\(", re.M)


def extract_code(response: str) -> str | None:
    """The last Python block after the reasoning, or else the last block without a language; None if there is neither.

    A block is Python's if it is fenced as python, py or python3, in any case. If that block is not closed, the response has no
    code. Of blocks without a language, one with a statement counts before one with a program's output. Fences inside a string
    are part of the code. A response without any block is code if it starts as a module does, with def, class or import.
    """
    text = after_reasoning(response).strip()
    blocks = list(_blocks(text))
    if not blocks:
        return text if _MODULE_START.match(text) else None
    plain = [code for language, code in blocks if not language and code is not None]
    named = [code for language, code in blocks if _PYTHON.fullmatch(language)]
    candidates = named or [code for code in plain if _STATEMENT.search(code)] or plain
    return candidates[-1] if candidates else None


def _blocks(text: str) -> Iterator[tuple[str, str | None]]:
    """The language and the content of each fenced block; a content is None if the block is not closed."""
    position = 0
    while opening := _OPENING.search(text, position):
        language, fence = opening["language"].strip(), opening["fence"] or opening["inline"]
        if language and not _PYTHON.fullmatch(language):
            closings = re.finditer(rf"^[ \t]*(?P<closing>{fence})", text[opening.end() :], re.M)
        else:
            closings = re.finditer(rf"{_STRING_OR_COMMENT} | (?P<closing>{fence})", text[opening.end() :], re.S | re.X)
        closing = next((found for found in closings if found["closing"]), None)
        if closing is None:
            yield language, None
            return
        yield language, textwrap.dedent(text[opening.end() :][: closing.start()]).strip("\r\n")
        position = opening.end() + closing.end()

"""Finds the Python code in a response."""

import re
import textwrap
from collections.abc import Iterator

from vlrl.common.responses import after_reasoning

_OPENING = re.compile(r"(?:^[ \t]*+(?P<fence>`{3,}+|~{3,}+)|(?<!`)(?P<inline>`{3,}+)(?=py))(?P<language>[^\n`]*+)$", re.M | re.I)
_PYTHON = re.compile(r"\{?\.?i?py(?:thon)?[\d.]*\}?(?:[\s:,{].*)?", re.I)
_STRING_OR_COMMENT = r"""
    \#[^\n]*
    | \"{3} (?: \\. | [^\\] )*? (?: \"{3} | \Z ) | '{3} (?: \\. | [^\\] )*? (?: '{3} | \Z )
    | \" (?: \\. | [^"\\\n] )* \"? | ' (?: \\. | [^'\\\n] )* '?
"""  # each alternative matches to the end of the text or line if its quote is not closed, so that the search is linear
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
        is_code = not language or _PYTHON.fullmatch(language)
        closing = (_code_end(text, opening.end(), fence) if is_code else None) or _line(fence).search(text, opening.end())
        if closing is None:
            yield language, None
            return
        yield language, textwrap.dedent(text[opening.end() : closing.start("fence")]).strip("\r\n")
        position = closing.end()


def _code_end(text: str, position: int, fence: str) -> re.Match[str] | None:
    """The first fence outside of the code's strings and comments."""
    found = re.compile(rf"{_STRING_OR_COMMENT} | (?P<fence>{fence})", re.DOTALL | re.VERBOSE).finditer(text, position)
    return next((match for match in found if match["fence"]), None)


def _line(fence: str) -> re.Pattern[str]:
    """A line that is a fence: the end of a block in another language, or of code in which a string is not closed."""
    return re.compile(rf"^[ \t]*(?P<fence>{fence})[ \t\r]*$", re.MULTILINE)

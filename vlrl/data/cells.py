"""Reads the values of a source's columns: texts, numbers, pictures, options and chats, in the forms that data sets have them.

A value of another kind raises WrongKind, a missing one is None.
"""

import ast
import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from string import ascii_uppercase
from typing import Any

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
_WEB_ADDRESS = re.compile(r"\w+://")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{60,}={0,2}\s*")  # no file's name has 60 characters and no dot
_LETTERED = re.compile(r"\s*\(?([A-Z])\s*[).:]\s*(.+)", re.DOTALL)
_EXACT = 2**53  # a float holds every integer up to here
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


class WrongKind(ValueError):  # noqa: N818
    """A column's value cannot be what the row needs. The message says what it must be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """One question and perhaps one response. pictures: those inside the turns of a chat."""

    question: str
    response: str = ""
    system: str = ""
    pictures: tuple[Any, ...] = ()


def value_at(record: Mapping[str, Any], column: str) -> Any:
    """The value of a column. A dot leads into an object, or to a list's item by its number from 0. None if there is no value.

    >>> value_at({"meta": {"answers": ["4", "5"]}}, "meta.answers.1"), value_at({"a.b": 1}, "a.b"), value_at({}, "a.b")
    ('5', 1, None)
    """
    if column in record:
        return record[column]
    value: Any = record
    for part in column.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit():
            value = value[int(part)] if int(part) < len(value) else None
        else:
            return None
    return value


def columns_of(record: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The record's columns, with dots for those inside objects."""
    for name, value in record.items():
        yield f"{above}{name}"
        if isinstance(value, Mapping) and not {"bytes", "path"} <= value.keys():
            yield from columns_of(value, f"{above}{name}.")


def kind_of(value: Any) -> str:
    """The value and its kind, for an error message."""
    kinds = {"an object": Mapping, "bytes": bytes, "a boolean": bool, "a number": int | float | Decimal, "a text": str}
    name = next((name for name, kind in (kinds | {"a list": list | tuple}).items() if isinstance(value, kind)), "")
    return f"{name or type(value).__name__} ({value!r:.60})"


def plain_text(value: Any) -> str:
    """A text without blanks around it, or a number as text: 42 for 42.0. A missing value and NaN are empty.

    >>> plain_text(42.0), plain_text(0.5), plain_text(" 42.0 "), plain_text(True), plain_text(None), plain_text(float("nan"))
    ('42', '0.5', '42.0', 'true', '', '')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal) and math.isfinite(value):
        is_whole = -_EXACT <= value <= _EXACT and value == int(value)
        return str(int(value)) if is_whole else str(value)
    raise WrongKind("must be a text or a finite number")


def pictures_in(value: Any, folder: Path, *, inside: bool) -> list[Any]:
    """The pictures of a cell, as absolute paths or encoded bytes: of a path relative to the folder, a base64 text, bytes, the
    hub's {bytes, path}, or a list of these.

    inside: whether a path may only lead to a file inside the folder.
    """
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [picture for each in value for picture in pictures_in(each, folder, inside=inside)]
    if isinstance(value, Mapping) and value.keys() & {"bytes", "path"}:
        return pictures_in(value.get("bytes") or value.get("path"), folder, inside=inside)
    if isinstance(value, bytes):
        return [value]
    if not isinstance(value, str):
        raise WrongKind("must be a path, base64 text, bytes, {bytes, path}, or a list of these")
    return [_picture(value.strip(), folder, inside=inside)] if value.strip() else []


def _picture(text: str, folder: Path, *, inside: bool) -> Any:
    if (found := _DATA_URL.match(text)) or _BASE64.fullmatch(text):
        try:
            return base64.b64decode("".join(text[found.end() if found else 0 :].split()), validate=True)
        except binascii.Error as error:
            raise WrongKind(f"must be whole base64 text ({error})") from None
    if _WEB_ADDRESS.match(text):
        raise WrongKind("must be a file or the picture itself, not an address on the web")
    if inside and (Path(text).is_absolute() or ".." in Path(text).parts):
        raise WrongKind("must be a path inside the data set")
    return folder.absolute() / text


def options_in(values: Sequence[Any]) -> list[str]:
    """The options of a choice, from one cell with a list, {"A": ..., "B": ...} or the text of a list, or from several cells.

    Empty ones at the end are ignored. Letters before all of them, as in "A) five", are removed.

    >>> options_in([["A) five", "B) six"]]), options_in(["['five', 6]"]), options_in(["five", "six", None])
    (['five', 'six'], ['five', '6'], ['five', 'six'])
    """
    found = _list_in(values[0]) if len(values) == 1 else list(values)
    texts = [plain_text(value) for value in found]
    while texts and not texts[-1]:
        texts.pop()
    lettered = [_LETTERED.fullmatch(text) for text in texts]
    if "".join(match[1] for match in lettered if match) == ascii_uppercase[: len(texts)]:
        return [match[2].strip() for match in lettered if match]
    return texts


def _list_in(value: Any) -> list[Any]:
    if isinstance(value, str):
        for parse in (json.loads, ast.literal_eval):
            try:
                value = parse(value)
                break
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    if isinstance(value, Mapping) and all(name in ascii_uppercase for name in value):
        return [value[name] for name in sorted(value)]
    if not isinstance(value, list | tuple):
        raise WrongKind("must be a list of options")
    return list(value)


def chat_in(value: Any) -> Chat | None:
    """A chat of [system,] user [, assistant], from [{role, content}] or [{from, value}], or their JSON text.

    Its question and response are empty if it has no such turn. None for a chat with more of them.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list | tuple) or not all(isinstance(turn, Mapping) for turn in value):
        raise WrongKind("must be a list of turns, such as [{role: user, content: ...}, {role: assistant, content: ...}]")
    turns: dict[str, str] = {}
    pictures: list[Any] = []
    for turn in value:
        said_by = turn.get("role", turn.get("from"))
        role = _ROLES.get(said_by) if isinstance(said_by, str) else None
        if role is None:
            raise WrongKind(f"must have turns of user, assistant and system only, not of {said_by!r:.40}")
        if role in turns or (role == "user" and "assistant" in turns):
            return None
        text, found = _content(turn.get("content", turn.get("value")))
        turns[role] = text
        pictures += found
    said = [turns.get(role, "") for role in ("user", "assistant", "system")]
    return Chat(question=said[0], response=said[1], system=said[2], pictures=tuple(pictures))


def _content(content: Any) -> tuple[str, list[Any]]:
    """The text of a turn, and the pictures among its parts."""
    if not isinstance(content, list | tuple):
        return plain_text(content), []
    texts, pictures = [], []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") not in ("text", "image"):
            raise WrongKind("must have parts of type text or image only")
        if part["type"] == "text":
            texts.append(plain_text(part.get("text")))
        elif part.get("image") is not None:
            pictures.append(part["image"])
    return "\n".join(texts), pictures

"""An extension of griffe, which reads the sources for the API pages: docstrings in this project's manner become Markdown.

A doctest becomes a block of code, and sentences that begin with the names of fields or parameters become a list.
"""

import re
from collections.abc import Collection
from typing import Any

import griffe

from docs_site.named_sentences import named_sentences


class Docstrings(griffe.Extension):
    """Rewrites each docstring after the sources are read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            names = [each.name for each in obj.parameters] if isinstance(obj, griffe.Function) else list(obj.members)
            paragraphs = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(_as_markdown(paragraph, names) for paragraph in paragraphs)


def _as_markdown(paragraph: str, names: Collection[str]) -> str:
    if paragraph.startswith(">>>"):
        return f"```pycon\n{paragraph.rstrip()}\n```"
    about, found = named_sentences(paragraph, names)
    if not found or re.search(r"^ {2}", paragraph, re.MULTILINE):  # code, or a list with indented lines
        return paragraph
    listed = "\n".join(f"- {', '.join(f'`{name}`' for name in each)}: {what}" for each, what in found)
    listed, raises, errors = listed.partition(" Raises ")
    return "\n\n".join(filter(None, [about, listed, (raises + errors).strip()]))

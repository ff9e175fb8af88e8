"""Reads docstrings whose sentences begin with the names of what they describe: "name: what it is. one, other: what they are."."""

import re
from collections.abc import Collection


def named_sentences(text: str, names: Collection[str]) -> tuple[str, list[tuple[list[str], str]]]:
    """The text before the first such sentence, and then the names and the text of each.

    >>> named_sentences("A box. left, top: its corner. size: in pixels. Never 0.", ["left", "top", "size"])
    ('A box.', [(['left', 'top'], 'its corner.'), (['size'], 'in pixels. Never 0.')])
    """
    one = "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)"
    about, *rest = re.split(rf"(?:^|(?<=[.)] ))((?:{one})(?:, (?:{one}))*): ", " ".join(text.split()))
    return about.strip(), [(each.split(", "), what.strip()) for each, what in zip(rest[::2], rest[1::2], strict=True)]

"""Reads a text field from JSON data, in which people often write a number without quotation marks."""

import math
from decimal import Decimal
from numbers import Real
from typing import Any


def json_text(value: Any, name: str) -> str:
    """The value as text: a number or a boolean as JSON writes it. Raises ValueError for anything else; name: the field's name.

    >>> json_text("7", "answer"), json_text(7, "answer"), json_text(7.5, "answer"), json_text(True, "answer")
    ('7', '7', '7.5', 'true')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Real | Decimal) and math.isfinite(value):
        return str(value)
    raise ValueError(f"{name} is {value!r:.80} ({type(value).__name__}); write text or a finite number")

"""Reads JSON answers strictly, and checks them against a schema or compares them with the reference.

The JSON of a response is the content of its last ```json block after the reasoning, or the whole text if it has no block. A fence
is a line of its own, so it cannot be inside a JSON string, and it must be closed. JSON inside prose, truncated JSON and two
consecutive values are invalid.
"""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from vlrl.common.responses import after_reasoning
from vlrl.tasks import BadRow

MAX_JSON = 16_384
MAX_DEPTH = 32
MAX_DIGITS = 100

_OPENINGS = ("```json", "```")


def valid_json(response: str, schema: Mapping[str, Any]) -> bool:
    """Whether the response's JSON matches the JSON Schema. Raises BadRow if the schema is invalid or refers to another document.

    >>> schema = {"type": "object", "properties": {"cells": {"type": "integer"}}, "required": ["cells"]}
    >>> valid_json('{"cells": 7}', schema), valid_json('{"cells": "7"}', schema), valid_json("7 cells", schema)
    (True, False, False)
    """
    from referencing.exceptions import Unresolvable

    try:
        validator = _validator(json.dumps(schema))
    except (TypeError, ValueError) as error:
        raise BadRow(f"the row's schema is not JSON: {error}") from None
    try:
        return validator.is_valid(response_json(response))
    except (Unresolvable, RecursionError) as error:
        raise BadRow(f"the row's schema cannot be applied: {error}") from None
    except ValueError:
        return False


def same_json(response: str, gold: str) -> bool:
    """Whether the response's JSON equals the reference's. Raises BadRow if the reference is not JSON.

    The order of list items matters, the order of object keys does not, and texts must be identical. JSON has only one number
    type, so
    numbers are compared by value: 1 equals 1.0 and 1e0, but neither "1" nor true.

    >>> same_json('{"b": [1.0], "a": null}', '{"a": null, "b": [1]}'), same_json("[true]", "[1]"), same_json("[1, 2]", "[2, 1]")
    (True, False, False)
    """
    try:
        expected = read_json(gold)
    except ValueError as error:
        raise BadRow(f"the reference {gold[:100]!r} is not JSON: {error}") from None
    try:
        return _same(response_json(response), expected)
    except ValueError:
        return False


def response_json(response: str) -> Any:
    """The response's single JSON value, as the module docstring describes. Raises ValueError with the reason if there is none.

    >>> response_json("Two, I think.\\n```json\\n[1, 2]\\n```")
    [1, 2]
    """
    lines = after_reasoning(response).strip().split("\n")
    fences = [number for number, line in enumerate(lines) if line.lstrip().startswith("```")]
    if len(fences) % 2:
        raise ValueError("the last block is not closed")
    if fences:
        opening, closing = fences[-2:]
        if lines[opening].strip() not in _OPENINGS or lines[closing].strip() != "```":
            raise ValueError("the last block is not a JSON block")
        lines = lines[opening + 1 : closing]
    return read_json("\n".join(lines))


def read_json(text: str) -> Any:
    """Reads `text` as one JSON value; ignores surrounding white space. Raises ValueError if it is anything else.

    Also rejects repeated keys in an object, NaN and Infinity, floats beyond a double's range, integers of more than 100 digits,
    nesting deeper than 32, and texts of more than 16,384 characters.
    """
    text = text.strip()
    if len(text) > MAX_JSON:
        raise ValueError(f"it has {len(text)} characters; at most {MAX_JSON} are allowed")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_finite_float, parse_float=_finite_float, parse_int=_short_int
        )
    except RecursionError:
        raise ValueError("nested too deep") from None
    if _depth(value) > MAX_DEPTH:
        raise ValueError("nested too deep")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object has a key twice")
    return value


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is not a finite number")
    return value


def _short_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it has an integer of {len(digits)} digits; at most {MAX_DIGITS} are allowed")
    return int(digits)


def _depth(value: Any) -> int:
    """The nesting depth of lists and objects. Not recursive, because the nesting may be too deep."""
    depth, level = 0, [value]
    while level := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        level = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]
    return depth


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return _kind(one) is _kind(other) and one == other


def _kind(value: Any) -> type:
    return float if type(value) is int else type(value)


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    """A validator for the schema. The empty registry prevents network requests for a $ref."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    content = json.loads(schema)
    kind = validator_for(content, default=Draft202012Validator)
    try:
        kind.check_schema(content)
    except SchemaError as error:
        raise BadRow(f"the row's schema is not valid: {error.message}") from None
    return kind(content, registry=Registry())

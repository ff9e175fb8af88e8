"""JSON answers: what counts as the one value of a response, and what is equal to what."""

import doctest
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.tasks import BadRow
from vlrl.verifiers import structured
from vlrl.verifiers.structured import MAX_DEPTH, MAX_DIGITS, MAX_JSON, read_json, response_json, same_json, valid_json

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "cells": {"type": "integer", "minimum": 0}},
    "required": ["name", "cells"],
    "additionalProperties": False,
}
HOSTILE = {
    "brackets": "[" * 10**6,
    "nested lists": "[" * 8000 + "]" * 8000,
    "nested objects": '{"a":' * 2000 + "1" + "}" * 2000,
    "digits": "9" * 10**6,
    "short enough, but all digits": "9" * 5000,
    "exponent": "1e" + "9" * 5000,
    "quotes": '"' * 10**6,
    "escapes": '"' + "\\" * 10**6,
    "fences": "```json\n" * 10**5,
    "closed fences": "```json\n```\n" * 10**5,
    "spaces": "```json" + " " * 10**6,
    "new lines": "\n" * 10**6,
    "thoughts": "<think>" * 10**5,
    "surrogate": '"\ud800"',
    "null byte": "\0",
}
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(structured).failed == 0


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("[1]", [1]),
        (" \n7\n", 7),
        ("null", None),
        ("Here:\n```json\n[1]\n```\nDone.", [1]),
        ("```\n[1]\n```", [1]),
        ("```json\n[1]\n```\nno:\n```json\n[2]\n```", [2]),
        ("```python\nx = 1\n```\n```json\n[2]\n```", [2]),
        ('```json\n"```"\n```', "```"),
        ("  ```json\r\n[1]\r\n  ```\r\n", [1]),
        ("<think>\n```json\n[1]\n```\n</think>\n[2]", [2]),
    ],
)
def test_the_last_block_or_all_of_the_text_is_the_value(response, value):
    assert response_json(response) == value


@pytest.mark.parametrize(
    "response",
    ["", "I see [1]", "[1] I think", "[1][2]", "[1]\n[2]", "[1", "```json\n[1]", "```json\n[1]\n```\nno:\n```json\n[2]"]
    + ["```json\n[1]\n[2]\n```", "```json\n```", "```python\n[1]\n```", "```json [1]```", "[1]\n```json\nx\n```", "<think>[1]"],
)
def test_all_else_has_no_value(response):
    with pytest.raises(ValueError):
        response_json(response)


@pytest.mark.parametrize(
    "text",
    ["NaN", "[Infinity]", "-Infinity", "1e400", "[-1e400]", '{"a": 1, "a": 1}', '[{"b": {"a": 1, "a": 2}}]', "01", "+1", ".5"]
    + ["1_000", "٧", "'a'", "[1,]", "// 1\n1", "True", '"\n"', "9" * (MAX_DIGITS + 1), " " * 3 + "[" + " " * MAX_JSON + "]"],
)
def test_what_python_or_javascript_would_read_is_refused(text):
    with pytest.raises(ValueError):
        read_json(text)


def test_depth_and_size_have_their_limits():
    assert read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="too deep"):
        read_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    assert read_json("9" * MAX_DIGITS) == 10**MAX_DIGITS - 1
    assert read_json('"' + "a" * (MAX_JSON - 2) + '"')


@settings(max_examples=100)
@given(values)
def test_a_value_is_the_same_however_it_is_rendered(value):
    gold = json.dumps(value)
    assert same_json(json.dumps(value, indent=2, sort_keys=True), gold)
    assert same_json(f"So:\n```json\n{json.dumps(value, ensure_ascii=False)}\n```", gold)


@settings(max_examples=100)
@given(values, values)
def test_another_value_is_never_the_same(one, other):
    assert same_json(json.dumps(one), json.dumps(other)) == same_json(json.dumps(other), json.dumps(one))
    if one != other:
        assert not same_json(json.dumps(one), json.dumps(other))
    for around in ([one], {"a": one}, [one, one]):
        assert not same_json(json.dumps(around), json.dumps(one))


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("1", "1.0", True),
        ("1e2", "100", True),
        ("-0.0", "0", True),
        ("1", "true", False),
        ("0", "false", False),
        ("null", "false", False),
        ('"1"', "1", False),
        ("[]", "{}", False),
        ("[1, 1]", "[1]", False),
        ('{"a": 1}', '{"a": 1, "b": null}', False),
        ('{"a": true}', '{"a": 1}', False),
        ('"A"', '"a"', False),
        ("100000000000000000001", "100000000000000000000", False),
    ],
)
def test_types_are_exact_but_there_is_one_kind_of_number(answer, gold, same):
    assert same_json(answer, gold) == same


@pytest.mark.parametrize(
    ("response", "valid"),
    [
        ('{"name": "RBC", "cells": 7}', True),
        ('Counted.\n```json\n{"name": "RBC", "cells": 7.0}\n```', True),
        ('{"name": "RBC", "cells": true}', False),
        ('{"name": "RBC", "cells": -1}', False),
        ('{"name": "RBC"}', False),
        ('{"name": "RBC", "cells": 7, "more": 1}', False),
        ('{"name": "RBC", "cells": 8, "cells": 7}', False),
        ('[{"name": "RBC", "cells": 7}]', False),
        ("seven", False),
    ],
)
def test_a_schema_is_followed_or_not(response, valid):
    assert valid_json(response, SCHEMA) == valid


@pytest.mark.parametrize(
    "schema",
    [{"type": "number "}, {"pattern": "("}, {"$ref": "#"}, {"$ref": "#/$defs/none"}, {"$ref": "https://example.org/schema.json"}]
    + [{"minimum": "0"}, {"enum": {1, 2}}],
)
def test_a_schema_that_nothing_can_follow_is_the_rows_fault(schema):
    with pytest.raises(BadRow, match="schema"):
        valid_json("7", schema)


@pytest.mark.parametrize("gold", ["", "yes", "[1", "NaN", '{"a": 1, "a": 1}', "[" * 100 + "]" * 100])
def test_an_unreadable_reference_is_the_rows_fault(gold):
    with pytest.raises(BadRow, match="is not JSON"):
        same_json("1", gold)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_text_upsets_the_reader(name):
    recursive = {
        "anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#"}}, {"additionalProperties": {"$ref": "#"}}]
    }
    assert not same_json(HOSTILE[name], "1")
    valid_json(HOSTILE[name], recursive)
    for deepest in ("[" * MAX_DEPTH + "]" * MAX_DEPTH, '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH):
        assert valid_json(deepest, recursive)


@settings(max_examples=100)
@given(st.text(max_size=80) | st.text(alphabet='[]{}",:`json\n0e9- \\', max_size=80))
def test_no_text_upsets_the_reader(text):
    for response in (text, f"```json\n{text}\n```"):
        assert not same_json(response, "12345")
        assert isinstance(valid_json(response, SCHEMA), bool)

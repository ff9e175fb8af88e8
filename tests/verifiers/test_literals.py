"""Literals as answers: read and never run, equal only in type too."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.verifiers.cases import cases
from tests.verifiers.made_programs import outputs
from vlrl.tasks import BadRow
from vlrl.verifiers import literals
from vlrl.verifiers.code import same_value
from vlrl.verifiers.literals import same_literal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(literals).failed == 0


@given(VALUES)
def test_a_value_is_its_own_literal(value):
    if len(repr(value)) <= 1000:
        assert same_literal(repr(value), repr(value))
        assert same_literal(f" `{value!r}` ", repr(value))


@given(VALUES, VALUES)
def test_another_value_never_passes(value, other):
    if repr(value) != repr(other) and len(repr(value)) + len(repr(other)) <= 1000:
        assert same_literal(repr(other), repr(value)) == (json_like(value) == json_like(other))


def json_like(value) -> str:
    """The value with sorted keys: dicts are equal in any order."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{key!r}:{json_like(item)}" for key, item in value.items())) + "}"
    if isinstance(value, list | tuple):
        return type(value).__name__ + "[" + ",".join(map(json_like, value)) + "]"
    return repr(value)


@given(
    st.text()
    | st.sampled_from(["(" * 100_000, "[" * 5000, "9" * 5000, "__import__('os').getpid()", "f()", "1 +", "\0", "-" * 5000])
)
def test_any_text_is_read_without_being_run(text):
    assert same_literal(text, "'a value that no text here has'") is False


def test_a_gold_that_is_no_literal_is_the_rows_fault():
    with pytest.raises(BadRow, match="is not a Python literal"):
        same_literal("1", "f(1)")


def test_what_programs_return_passes_and_what_others_return_does_not():
    golds = [made.output for made in outputs(400)]
    assert [gold for gold in golds if not same_literal(gold, gold)] == []
    neighbours = zip(golds, golds[1:], strict=False)
    assert [(one, other) for one, other in neighbours if same_literal(one, other) != same_value(eval(one), eval(other))] == []


@pytest.mark.parametrize("case", cases("literals"), ids=lambda case: case["answer"][:40])
def test_an_answer_is_the_literal_or_it_is_not(case):
    assert same_literal(case["answer"], case["gold"]) == case["right"]

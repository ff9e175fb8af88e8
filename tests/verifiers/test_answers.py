"""Boxed answers and exact comparison: what is read, and what is never given away."""

import doctest
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.tasks import BadRow
from vlrl.verifiers import answers
from vlrl.verifiers.answers import MAX_ANSWER, last_boxed, number, same_number, same_text


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(answers).failed == 0


@pytest.mark.parametrize(
    ("response", "boxed"),
    [
        (r"\boxed{10}, no: \boxed{42}.", "42"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed {7}", "7"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{1} but \boxed{ }", None),
        (r"\fbox{5} and \boxed5", None),
        (r"\boxed{1} but \boxed{2", None),
        ("", None),
        (r"<think>\boxed{1}</think> so \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> so 2", None),
        (r"<think>is it \boxed{1}", None),
        (r"\boxed{1}</think>\boxed{2}<think>\boxed{3}", "2"),
    ],
)
def test_the_last_box_after_the_reasoning_is_the_answer(response, boxed):
    assert last_boxed(response) == boxed


def test_an_answer_has_a_greatest_length():
    assert last_boxed("\\boxed{" + "1" * MAX_ANSWER + "}") == "1" * MAX_ANSWER
    assert last_boxed("\\boxed{" + "1" * (MAX_ANSWER + 1) + "}") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-012.0", -12),
        ("+ 5.", 5),
        (".5", Fraction(1, 2)),
        ("1e3", 1000),
        ("2.5E-1", Fraction(1, 4)),
        ("1,234,567.5", Fraction(2469135, 2)),
        (r"12\,345\,678", 12345678),
        (r"32,\! 349", 32349),
        ("1{,}000", 1000),
        (r"-\$1,000", -1000),
        (r"$\frac{14}{3}$.", Fraction(14, 3)),
        (r"-\dfrac{10}{-4}", Fraction(5, 2)),
        (r"\tfrac12", Fraction(1, 2)),
        (r"\frac{0.5}{2}", Fraction(1, 4)),
        ("-3 / 4", Fraction(-3, 4)),
    ],
)
def test_the_spellings_of_a_number_are_read(text, value):
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "-",
        "3+4",
        "5!",
        "2^3",
        "1,23",
        "0,123",
        "12,34,567",
        "3 4",
        "6 or 7",
        "5 m",
        "10%",
        r"10\%",
        "1/0",
        r"\frac{1}{0}",
    ]
    + [
        "٧",
        "７",
        "x",
        "nan",
        "inf",
        "0x10",
        "1_000",
        "1$2",
        "1e9999",
        "101_2",
        "(2)",
        "1" * 5000,
        r"\sqrt{4}",
        "__import__('os')",
    ],
)
def test_all_else_is_not_a_number(text):
    assert number(text) is None


@settings(max_examples=50)
@given(st.fractions(), st.fractions())
def test_numbers_are_the_same_exactly_if_they_are_equal(one, other):
    assert same_number(str(one), str(other)) == (one == other)
    assert same_number(rf"\frac{{{one.numerator}}}{{{one.denominator}}}", str(one))


@settings(max_examples=50)
@given(st.integers())
def test_thousands_may_be_set_apart(value):
    assert same_number(f"{value:,}", str(value))
    assert same_number(f"{value:,}".replace(",", r"\,"), str(value))


@settings(max_examples=50)
@given(st.text(max_size=50))
def test_no_text_upsets_the_parser(text):
    value = number(text)
    assert value is None or text.isascii()
    last_boxed("\\boxed{" + text)


def test_large_integers_differ_by_one():
    assert not same_number("100000000000000000001", "100000000000000000000")


def test_an_unreadable_reference_is_the_rows_fault():
    with pytest.raises(BadRow, match="'about 5' is not a number"):
        same_number("5", "about 5")


@pytest.mark.parametrize(
    ("answer", "same"), [("yes", True), ("  YES .", True), ("yes..", False), ("", False), ("no", False), ("y es", False)]
)
def test_words_are_the_same_but_for_case_space_and_a_full_stop(answer, same):
    assert same_text(answer, "Yes.") == same

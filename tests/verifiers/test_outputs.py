"""What a program prints: the same lines, numbers within the tolerance that the problem states."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.verifiers import outputs
from vlrl.verifiers.outputs import same_output, stated_tolerance


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(outputs).failed == 0


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("2.5", "2.50"),
        ("2.50", "2.5"),
        ("2", "2.0"),
        ("1e-05", "0.00001"),
        (".5", "0.5"),
        ("-0.0", "0.0"),
        ("a 1.0 b", "a 1.00 b"),
        ("1.0\n2\n", "1.00\n2"),
    ],
)
def test_a_number_with_a_point_may_be_written_in_another_way(printed, expected):
    assert same_output(printed, expected)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("3.0", "3"),
        ("+3", "3"),
        ("03", "3"),
        ("3e0", "3"),
        ("2.51", "2.50"),
        ("0.333", "0.3333"),
        ("2,5", "2.5"),
        ("2.5 2.5", "2.5"),
        ("2.5  3", "2.50 3"),
        ("2.5\n\n3", "2.5\n3"),
        ("nan", "nan.0"),
        ("inf", "1.0"),
        ("1_0.0", "10.0"),
        ("\u0662.5", "2.5"),
        ("0x1.0", "1.0"),
        ("", "0.0"),
        ("1.0.0", "1.0"),
    ],
)
def test_another_output_is_wrong_without_a_tolerance(printed, expected):
    assert not same_output(printed, expected)


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("0.3333333333333333", "0.333333333", True),
        ("0.33333", "0.333333333", False),
        ("1000000.5", "1000000.0", True),
        ("0.0000005", "0.0", True),
        ("3.0000000", "3", True),
        ("3.00001", "3", False),
        ("1000001", "1000000", False),
        ("1e999", "1.0", False),
        ("nan", "1.0", False),
        ("-1.0", "1.0", False),
        ("yes 0.9999999", "yes 1.0", True),
        ("no 0.9999999", "yes 1.0", False),
    ],
)
def test_a_tolerance_holds_for_numbers_that_are_not_whole(printed, expected, same):
    assert same_output(printed, expected, 1e-6) == same


@pytest.mark.parametrize(
    ("question", "tolerance"),
    [
        ("Answers within 1e-6 are accepted.", 1e-6),
        ("The absolute or relative error must not exceed 10^-9.", 1e-9),
        ("An absolute or relative error of at most $10^{-6}$ is fine.", 1e-6),
        ("It is correct if the error does not exceed 10 - 6.", 1e-6),
        ("It is correct if the error does not exceed 10<sup>-4</sup>.", 1e-4),
        ("It is correct if $\\frac{|a - b|}{\\max(1, b)} \\le 10^{-6}$.", 1e-6),
        ("The precision is 10\u22125.", 1e-5),
        ("The precision is 10\u207b\u2075.", 1e-5),
        ("An error below 10**-7 is accepted.", 1e-7),
        ("An error of at most 0.000001 is accepted.", 1e-6),
        ("Your answer may be within 0.01 of the right one.", 1e-2),
        ("Absolute error 1e-9 or relative error 1e-6.", 1e-9),
        ("Print the number of errors.", 0.0),
        ("Numbers are at most 10^9. Print the correct sum.", 0.0),
        ("Steps are 10^-6 long. Print the sum.", 0.0),
        ("The error is at least 10-20 lines long.", 0.0),
        ("Answers within 1 of the right one are accepted.", 0.0),
        ("Answers within 0.5 are accepted.", 0.0),
        ("", 0.0),
    ],
)
def test_the_tolerance_is_the_one_that_the_problem_states(question, tolerance):
    assert stated_tolerance(question) == tolerance


@given(st.lists(st.text("ab 1.\n\t\r-e"), max_size=5).map("".join), st.sampled_from([0.0, 1e-6]))
def test_an_output_is_the_same_as_itself(text, tolerance):
    assert same_output(text, text, tolerance)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_two_numbers_are_the_same_both_ways_or_neither_without_a_tolerance(one, other):
    assert same_output(f"{one:.3f}", f"{other:.5f}") == same_output(f"{other:.5f}", f"{one:.3f}")

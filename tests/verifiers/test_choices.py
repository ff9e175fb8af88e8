"""Choices: the ways to pick one option, and the ways to pick none or too many."""

import doctest
from string import ascii_uppercase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verifiers.cases import cases
from vlrl.tasks import BadRow
from vlrl.verifiers import choices
from vlrl.verifiers.choices import choice, same_choice, yes_no

SHAPES = ["hexagon", "triangle", "square", "pentagon"]


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(choices).failed == 0


@pytest.mark.parametrize(
    "answer",
    [
        "D",
        "d",
        "(D)",
        "[D]",
        "(d).",
        "D.",
        "**D**",
        "**(D)**.",
        r"\text{D}",
        r"$\textbf{(D) }$",
        r"\boxed{D}",
        r"so \boxed{\text{(D)}}.",
    ]
    + ["<answer>D</answer>", "<think>A or B?</think> D", "The answer is (D)", "the correct option is: D.", "Final answer: **D**"]
    + [
        "pentagon",
        "Pentagon.",
        '"pentagon"',
        "(D) pentagon",
        "D. pentagon",
        "D: Pentagon.",
        "D) pentagon",
        "The answer is pentagon",
    ],
)
def test_one_option_is_picked_by_its_letter_or_its_text(answer):
    assert choice(answer, SHAPES) == "D"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "E",
        "A or D",
        "A, B, C, D",
        "ABCD",
        "D\nA",
        "D D",
        "Not D",
        "not pentagon",
        "Depends",
        "D?",
        "D. square",
        "(D",
        "1",
        "4",
    ]
    + [
        "A pentagon has five sides, so the answer is B",
        "a pentagon",
        "square pentagon",
        "none of these",
        "<think>D",
        "<think>D</think>",
    ]
    + ["<answer>A</answer><answer>D</answer>", r"\boxed{D", r"\boxed{A} or \boxed{}", "The answer is D or A", "D" * 5000],
)
def test_all_else_picks_none(answer):
    assert choice(answer, SHAPES) is None


@pytest.mark.parametrize("lookalike", ["\u0391", "\u0410", "\uff21", "\u00c0", "(\u0391)", "\U0001d400", "\u24b6"])
def test_a_letter_that_only_looks_like_one_is_none(lookalike):
    assert choice(lookalike, SHAPES) is None


def test_two_options_with_the_same_text_are_told_apart_by_letter_only():
    assert choice("5", ["5", "6", "5"]) is None
    assert choice("C", ["5", "6", "5"]) == "C"


def test_a_letter_is_read_as_a_letter_before_it_is_read_as_a_text():
    assert choice("A", ["B", "A"]) == "A"


@pytest.mark.parametrize("gold", ["E", "circle", "", "A or B"])
def test_a_gold_that_is_not_an_option_is_the_rows_fault(gold):
    with pytest.raises(BadRow, match="is not one of the options"):
        same_choice("A", gold, SHAPES)


@pytest.mark.parametrize("count", [0, 1, 27])
def test_a_choice_has_two_to_twenty_six_options(count):
    with pytest.raises(BadRow, match=f"the row has {count} options"):
        same_choice("A", "A", [str(number) for number in range(count)])


@settings(max_examples=50)
@given(st.lists(st.integers(10, 999), min_size=2, max_size=26, unique=True), st.data())
def test_each_rendering_of_an_option_passes_for_it_alone(numbers, data):
    options = [str(number) for number in numbers]
    place = data.draw(st.integers(0, len(options) - 1))
    letter, text = ascii_uppercase[place], options[place]
    other = ascii_uppercase[(place + 1) % len(options)]
    for rendering in (letter, f"({letter})", text, f"{letter}. {text}", rf"\boxed{{{letter}}}"):
        assert same_choice(rendering, letter, options) and same_choice(rendering, text, options)
        assert not same_choice(rendering, other, options)


@settings(max_examples=100)
@given(st.text(max_size=60))
def test_no_text_upsets_the_readers(text):
    assert choice(text, SHAPES) in ("A", "B", "C", "D", None)
    assert yes_no(text) in (True, False, None)


@pytest.mark.parametrize(
    "answer", ["yes", "Yes.", "TRUE", "**Yes**", r"\boxed{\text{True}}", "The answer is yes", "Is it? Yes!", "yes, true"]
)
def test_yes_and_true_are_yes(answer):
    assert yes_no(answer) is True


@pytest.mark.parametrize("answer", ["no", "No.", "FALSE", "**false**", r"\boxed{no}", "The claim is false.", "No, it is false"])
def test_no_and_false_are_no(answer):
    assert yes_no(answer) is False


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "maybe",
        "Yes and no",
        "yes or no",
        "no, yes",
        "not true",
        "It isn't false",
        "It isn’t true",
        "Yes, it is",
        "yesno",
        "nο",
        "true1false",
    ]
    + ["<think>yes</think>", "<think>yes", r"\boxed{yes", r"yes \boxed{}", "Nobody", "unknown"]
    + ["not really true", "It is hardly true", "probably true", "far from true", "never false", "True or not", "Is it true?"]
    + [
        "It is not the case that it is true",
        "neither true nor false",
        "True, not false",
        "partly true",
        "half true",
        "true if false",
        "impossible to be true",
        "No: that no bird flies is false",
        "It is wrong that it is true",
        "I doubt that it is true",
    ],
)
def test_all_else_is_neither(answer):
    assert yes_no(answer) is None


@pytest.mark.parametrize("case", cases("choices"), ids=lambda case: repr(case["answer"]))
def test_an_answer_picks_the_gold_or_it_does_not(case):
    assert same_choice(case["answer"], case["gold"], case["options"]) == case["right"]

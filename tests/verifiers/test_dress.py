"""Dress around an answer: what is removed, what stays because it is part of the answer, and what is never given away."""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verifiers.cases import cases
from vlrl.verifiers import dress
from vlrl.verifiers.answers import last_boxed, quantity, same_number, same_text
from vlrl.verifiers.choices import choice
from vlrl.verifiers.dress import bare_value, is_blank, undress
from vlrl.verifiers.text import anls, count, relaxed_number

DRESSES = [
    "{%s}",
    "$%s$",
    "**%s**",
    r"\text{%s}",
    r"\mathbf{%s}",
    r"\left(%s\right)",
    "x = %s",
    r"%s\,",
    "(%s)",
    "%s apples",
    "%s.",
]


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(dress).failed == 0


@pytest.mark.parametrize("case", cases("numbers"), ids=lambda case: f"{case['answer']} for {case['gold']}")
def test_a_number_is_the_gold_in_any_dress_and_nothing_else_is(case):
    boxed = last_boxed("\\boxed{" + case["answer"] + "}")
    assert (boxed is not None and same_number(boxed, case["gold"])) == case["right"]


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.lists(st.sampled_from(DRESSES), max_size=3))
def test_each_dress_keeps_the_number(value, other, dresses):
    answer = str(value)
    for each in sorted(dresses, key=lambda each: each == "x = %s"):  # an equation is never inside of anything
        answer = each % answer if answer.count("apples") + each.count("apples") < 2 else answer
    assert quantity(answer) in (value, None)
    assert same_number(DRESSES[value % len(DRESSES)] % value, str(value))
    assert same_number(answer, str(other)) <= (value == other)


@settings(max_examples=100)
@given(
    st.integers(0, 999),
    st.integers(0, 999),
    st.sampled_from([" or ", ", ", " ", "-", " to ", " and ", " = ", "; ", "/1 or ", "+", "×"]),
)
def test_two_numbers_are_none(one, other, between):
    if one != other:
        assert quantity(f"{one}{between}{other}") is None
        assert quantity(f"\\text{{{one}{between}}}{other}") is None


@settings(max_examples=100)
@given(st.text(max_size=60))
def test_no_text_upsets_the_readers_and_undressing_twice_changes_little(text):
    assert len(undress(undress(text))) <= len(undress(text))
    for read in (bare_value, is_blank, quantity, count):
        read(text)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        (r"\text{knave}, \text{knight}", "knave, knight"),
        (r"\text{A}\text{B}", "A B"),
        (r"1\text{3}", "1 3"),
        (r"\textbf{\text{Eve}}", "Eve"),
        (r"\{1, 2\}", r"\{1, 2\}"),
        (r"\frac{1}{12}", r"\frac{1}{12}"),
        ("2*3*4", "2*3*4"),
        ("2**3**4", "2**3**4"),
        ("**Answer:** blue", "Answer: blue"),
        ("$5 or $6", "$5 or $6"),
        ("yes..", "yes."),
        ("a_b_c", "a_b_c"),
        (r"100\%", "100%"),
        (r"R\&D", "R&D"),
        ("“Stop”", "Stop"),
        ("{a}{b}", "{a}{b}"),
    ],
)
def test_marks_are_removed_and_what_they_hold_is_not(text, bare):
    assert undress(text) == bare


@pytest.mark.parametrize(
    "content", ["", " ", r"\,", r"\ ", r"\; ", "{}", "{ }", "$$", "$ $", r"\text{}", r"\textbf{ }", "**", r"\quad", "~"]
)
def test_a_box_with_nothing_in_it_is_no_box(content):
    assert last_boxed("\\boxed{" + content + "}") is None
    assert last_boxed(f"\\boxed{{5}}, no: \\boxed{{{content}}}") is None


@pytest.mark.parametrize("content", ["0", "?", "-", r"\{\}", r"\emptyset", "''", "[]", "()", "...", r"\text{no}"])
def test_a_box_with_anything_in_it_is_one(content):
    assert last_boxed("\\boxed{" + content + "}") == content


def test_empty_braces_are_an_answer_only_as_a_literal():
    assert last_boxed(r"\boxed{{}}", literal=True) == "{}"
    assert last_boxed(r"\boxed{ }", literal=True) is last_boxed(r"\boxed{{}}") is None


@pytest.mark.parametrize("between", [" or ", "$ or $", ", or ", " and ", "** or maybe **", r"\) or \("])
def test_two_boxes_joined_by_or_are_no_answer(between):
    assert last_boxed(rf"\boxed{{4}}{between}\boxed{{5}}") is None
    assert last_boxed(rf"\boxed{{5}}{between}\boxed{{5}}") == "5"
    assert last_boxed(rf"\boxed{{4}}{between}\boxed{{6}}. No: \boxed{{5}}") == "5"


@pytest.mark.parametrize(
    "after",
    [
        ", but wait, that is too small",
        ". Wait, no",
        " Hmm, is that so?",
        "\nWait -",
        ". Actually, wait: it",
        ", but I should check the sign",
    ],
)
def test_a_box_that_is_taken_back_is_no_answer(after):
    assert last_boxed(rf"Perhaps \boxed{{5}}{after}") is None
    assert last_boxed(rf"Perhaps \boxed{{4}}{after}, so \boxed{{5}}.") == "5"


@pytest.mark.parametrize(
    "after", [".", ". They wait for 5 minutes.", ", the total wait.", ". Check: 2 + 3 = 5.", " minutes. Waiting is dull."]
)
def test_a_box_that_is_followed_by_other_words_stays(after):
    assert last_boxed(rf"So \boxed{{5}}{after}") == "5"


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        (r"\textbf{Blue}", "blue", True),
        ("**Blue**", "blue", True),
        (r"$\text{Blue}$.", "Blue", True),
        (r"\text{light blue}\,", "light blue", True),
        ('"Blue"', "blue", True),
        ("", "", False),
        ("{}", "", False),
        ("?", "blue", False),
        (r"\text{not }blue", "blue", False),
        (r"\text{blue or red}", "blue", False),
        ("blue, red", "blue", False),
        ("The answer is blue", "blue", False),  # words are never taken for a lead-in
        (r"\text{light}\text{blue}", "light blue", True),
    ],
)
def test_words_are_the_same_in_any_dress(answer, gold, same):
    assert same_text(answer, gold) == same


@pytest.mark.parametrize(
    ("answer", "gold", "close"),
    [
        (r"\text{3.5 million}", "3400000", True),
        ("$3.5M", "3500000", True),
        ("3.5 million people", "3.5 million", True),
        ("1,234 kWh", "1234", True),
        (r"12\%", "0.12", True),
        (r"12\%", "12", False),
        ("12 percent", "12%", True),
        ("about 1234", "1234", False),
        ("1234 to 1240", "1234", False),
        ("1234 (or 900)", "1234", False),
        ("-1234", "1234", False),
        (r"\text{2015}", "2015", True),
        ("2015 or 2016", "2015", False),
        ("21 years", "20 years", False),  # a reference with a unit is a label
        ("20 Years", "20 years", True),
    ],
)
def test_a_chart_s_value_is_read_in_any_dress(answer, gold, close):
    assert relaxed_number(answer, gold) == close


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (r"\text{NO ENTRY}", 1),
        ("**No Entry**", 1),
        (r"\textbf{NO}\ ENTRY", 1),
        ("no", 0),
        (r"\text{}", 0),
        ("NO ENTRY or EXIT", 0),
    ],
)
def test_a_read_text_is_compared_with_and_without_its_dress(answer, value):
    assert anls(answer, ["NO ENTRY"]) == value


def test_marks_that_are_in_the_picture_are_right_too():
    assert anls("*NEW*", ["*NEW*"]) == anls(r"\$5.00", ["$5.00"]) == anls('"Open"', ['"Open"']) == 1


def test_a_megabyte_of_marks_is_read_in_one_go():
    for piece in ("{", "$", "**", "\\text{", "x=", "1+", "(", "\\", "~", '"', "1,"):
        text = piece * (10**6 // len(piece))
        assert undress(text) is not None
        assert quantity(text) is count(text) is choice(text, ["a", "b"]) is None

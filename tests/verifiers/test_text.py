"""Counts, read text, chart values and languages: what is close enough, and what is never let through."""

import doctest

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verifiers.cases import cases
from vlrl.tasks import BadRow
from vlrl.verifiers import text
from vlrl.verifiers.answers import MAX_ANSWER
from vlrl.verifiers.text import MAX_GOLD, anls, count, relaxed_number, same_language

QUESTIONS = {
    "Latin": "How many red blood cells are there in this picture of a smear?",
    "Chinese": "这张血液涂片的图片里一共有多少个红细胞？",
    "Japanese": "この画像には赤血球がいくつありますか。",
    "Korean": "이 사진 속 혈액 도말 표본에는 적혈구가 모두 몇 개 있습니까?",
    "Cyrillic": "Сколько красных кровяных клеток видно на этом снимке мазка крови?",
    "Arabic": "كم عدد خلايا الدم الحمراء الموجودة في هذه الصورة المأخوذة بالمجهر؟",
    "Greek": "Πόσα ερυθρά αιμοσφαίρια φαίνονται σε αυτή την εικόνα του μικροσκοπίου;",
    "Thai": "ในภาพนี้มีเซลล์เม็ดเลือดแดงทั้งหมดกี่เซลล์ที่มองเห็นได้ชัดเจน",
}


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(text).failed == 0


VALUES = {"count": lambda answer, gold: count(answer) == gold, "anls": anls, "value": relaxed_number}


@pytest.mark.parametrize("case", cases("texts"), ids=lambda case: f"{case['kind']}: {case['answer']!r} for {case['gold']!r}")
def test_a_text_has_its_value(case):
    assert VALUES[case["kind"]](case["answer"], case["gold"]) == pytest.approx(case["value"])


def edits(one: str, other: str) -> int:
    """The fewest insertions, deletions and changes of a letter that lead from one to the other."""
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, start=1):
        before, row[0] = row[0], place
        for n, wanted in enumerate(other, start=1):
            before, row[n] = row[n], min(row[n] + 1, row[n - 1] + 1, before + (letter != wanted))
    return row[-1]


@given(st.text("abc", min_size=1, max_size=8), st.text("abc", min_size=1, max_size=8))
def test_anls_is_one_less_the_share_of_edits_where_that_is_under_a_half(answer, gold):
    share = edits(answer, gold) / max(len(answer), len(gold))
    assert anls(answer, [gold]) == pytest.approx(1 - share if share < 0.5 else 0)


@settings(max_examples=50)
@given(st.integers(0, 10**9 - 1))
def test_a_count_is_read_plain_and_in_groups(value):
    assert count(str(value)) == count(f"{value:,}") == value


@pytest.mark.parametrize(
    ("answer", "value"),
    [("zero", 0), ("TWENTY", 20), (" Twelve. ", 12), ("007", 7), ("1,000,000", 10**6)]
    + [
        ("7.0", 7),
        ("+7", 7),
        ("7 cells", 7),
        ("seven red cells", 7),
        (r"\text{Seven}", 7),
        ("**7**", 7),
        ("N = 7", 7),
        ("(7)", 7),
    ]
    + [("The answer is 7", 7), ("3 + 4 = 7", 7), ("7.00 cells", 7), ("1,024 cells", 1024)],
)
def test_the_spellings_of_a_count_are_read(answer, value):
    assert count(answer) == value


@pytest.mark.parametrize(
    "answer",
    [
        "",
        ".",
        "There are 7 cells",
        "about 7",
        "5-7",
        "5 to 7",
        "6 or 7",
        "6, 7",
        "7,8",
        "-7",
        "7.5",
        "7/1",
        "7e0",
        "1_000",
        "1,00",
    ]
    + [
        "7 or 8 cells",
        "7 cells or 8",
        "seven cells and eight more",
        "7 dozen",
        "seven hundred",
        "7%",
        "7 thousand",
        "7 pairs",
        "3 + 4",
    ]
    + [
        "7 = 8",
        "not 7",
        "no seven cells",
        "7 cells?",
        "seven, eight",
        "half",
        "7 and a half",
        "minus seven",
        "six seven",
        "7.0.0",
    ]
    + ["٧", "７", "²", "seven or eight", "twenty one", "seventy", "7\n8", "nan", "None", "0x7", "9" * 5000, "1234567890"],
)
def test_all_else_is_not_a_count(answer):
    assert count(answer) is None


words = st.text(min_size=1, max_size=20).filter(lambda word: 0 < len(text._plain(word)) <= MAX_GOLD)


@settings(max_examples=100)
@given(words, words)
def test_anls_is_one_for_the_same_text_alone(answer, gold):
    assert anls(gold, [gold]) == anls(f"  {gold}\n", ["x", gold]) == 1
    score = anls(answer, [gold])
    assert score == 0 or 0.5 < score <= 1
    assert (score == 1) == (text._plain(answer) == text._plain(gold))
    assert anls(gold, [answer]) == score


@settings(max_examples=50)
@given(st.text(alphabet="abcd", min_size=3, max_size=12), st.integers(0, 11), st.sampled_from("xyz"))
def test_one_changed_letter_is_one_edit(gold, place, letter):
    place %= len(gold)
    assert anls(gold[:place] + letter + gold[place + 1 :], [gold]) == pytest.approx(1 - 1 / len(gold))
    assert anls(gold[:place] + letter + gold[place:], [gold]) == pytest.approx(1 - 1 / (len(gold) + 1))


def test_anls_overlooks_case_space_and_compatibility_forms():
    assert anls("ＡＢＣ\u00a0 ﬁne", ["abc fine"]) == 1
    assert anls("straße", ["STRASSE"]) == 1


def test_anls_keeps_nothing_of_a_text_half_wrong():
    assert anls("ab", ["ax"]) == 0
    assert anls("abc", ["abx"]) == pytest.approx(2 / 3)
    assert anls("hello " * 3, ["hello"]) == 0


@pytest.mark.parametrize("golds", [[], [""], ["a", " "], ["a" * (MAX_GOLD + 1)]])
def test_anls_without_a_fit_reference_is_the_rows_fault(golds):
    with pytest.raises(BadRow, match="anls needs references"):
        anls("a", golds)


def test_a_long_answer_is_none():
    assert anls("a" + " " * MAX_ANSWER, ["a"]) == 0


@pytest.mark.parametrize(
    ("answer", "gold", "close"),
    [
        ("105", "100", True),
        ("105.01", "100", False),
        ("95", "100", True),
        ("-95", "-100", True),
        ("-100", "100", False),
        ("0.0", "0", True),
        ("0.001", "0", False),
        ("$1,234.", "1234", True),
        ("5 %", "5%", True),
        (r"5\%", "5 percent", True),
        ("0.05", "5%", True),
        ("5", "5%", False),
        ("3.4M", "3.5 million", True),
        ("$2 billion", "2,000,000,000", True),
        ("5 m", "5,000,000", False),
        ("3.5", "3.5 million", False),
        ("1/3", "0.33", True),
        ("2015", "2015", True),
        ("2016", "2015", False),
        ("2,016", "2,015", True),
        ("1499", "1450", True),
        ("inf", "10", False),
        ("1e9999", "10", False),
        ("10 20", "10", False),
        ("9 to 11", "10", False),
        ("", "10", False),
        ("Blue", "blue ", True),
        ("10", "blue", False),
        ("light blue", "blue", False),
        ("5 mİllion", "5 million", False),
    ],
)
def test_values_off_a_chart_may_be_a_twentieth_off(answer, gold, close):
    assert relaxed_number(answer, gold) == close


@settings(max_examples=100)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9))
def test_a_value_passes_as_itself_and_not_a_tenth_off(value):
    gold = str(value)
    assert relaxed_number(gold, gold) and relaxed_number(f"{value:,}", gold)
    assert relaxed_number(gold, gold, exact=True)
    if value:
        assert not relaxed_number(str(value * 11 / 10), gold)
        assert not relaxed_number(str(-value), gold)
        assert not relaxed_number(f"{gold}%", gold)


@pytest.mark.parametrize("gold", ["", " ", "nan", "NaN", "inf", "-Infinity"])
def test_a_missing_value_is_the_rows_fault(gold):
    with pytest.raises(BadRow, match="is empty or not finite"):
        relaxed_number("10", gold)


@pytest.mark.parametrize("asked", QUESTIONS)
@pytest.mark.parametrize("answered", QUESTIONS)
def test_each_script_is_told_from_the_others(asked, answered):
    assert same_language(QUESTIONS[answered], QUESTIONS[asked]) == (asked == answered)


@pytest.mark.parametrize(
    "response",
    ["", r"\boxed{7}", "17 + 25 = 42", "```python\n" + "def count_cells(image): return len(image.cells)\n" * 5 + "```"]
    + [
        "$$" + r"\text{area of the circle is } x + " * 5 + "$$",
        r"\(" + "cells counted " * 9 + r"\)",
        "<think></think>",
        "OK, RBC: 7",
    ],
)
def test_where_there_is_little_prose_nothing_is_held_against_it(response):
    for question in QUESTIONS.values():
        assert same_language(response, question)


def test_a_few_foreign_words_are_let_pass_and_a_half_is_not():
    chinese, english = "图中可以看到许多红细胞，还有一个白细胞。", "I can see many red cells and one white cell here. "
    assert same_language(f"{chinese}红细胞 (RBC, red blood cell) 共有七个。", QUESTIONS["Chinese"])
    assert same_language(f"{english * 3} 红细胞", QUESTIONS["Latin"])
    assert not same_language(english + chinese, QUESTIONS["Latin"])
    assert not same_language(english + chinese, QUESTIONS["Chinese"])


def test_a_question_of_mixed_scripts_may_be_answered_in_either():
    question = QUESTIONS["Latin"] + QUESTIONS["Cyrillic"]
    assert same_language(QUESTIONS["Latin"], question) and same_language(QUESTIONS["Cyrillic"], question)


@settings(max_examples=100)
@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_upsets_anything(answer, other):
    assert count(answer) is None or answer.isascii()
    assert 0 <= anls(answer, ["gold"]) <= 1
    assert relaxed_number(answer, "12.5") in (True, False)
    assert same_language(answer, other) in (True, False)
    assert same_language(answer, answer)


@pytest.mark.parametrize(
    "piece", ["9", "a", "一", " ", "$", "`", "```", "\\[", "\\(", "\\a", "<a", "http://", "ﷺ", "%", "\u0301", "1,000"]
)
def test_a_megabyte_is_no_answer(piece):
    answer = piece * (10**6 // len(piece))
    assert count(answer) is None
    assert anls(answer, ["gold"]) == 0
    assert not relaxed_number(answer, "12.5") and not relaxed_number(answer, "blue")
    assert same_language(answer, QUESTIONS["Latin"]) in (True, False)

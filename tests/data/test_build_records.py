"""What a build does with a recipe or a record that it cannot use, and with rows that are not worth keeping."""

import json
import re

import pytest

from tests.data.building import ECHO, NOTED, RECIPE, SENTENCE, build, build_from, data
from vlrl.data.recipe import load_recipe
from vlrl.data.shards import Dataset


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("def to_row", "def row", "must define to_row"),
        ("records\n", "recods\n", "sums.py:2 cannot be loaded .ImportError: cannot import name 'recods'"),
        ("= None, 3", "= None, three", "sums.py:6 cannot be loaded .NameError: name 'three' is not defined"),
        ("def to_row(raw):", "def to_row(raw:", "sums.py:12: "),
    ],
)
def test_a_recipe_that_cannot_be_used_is_named(made, old, new, says):
    (made / "sums.py").write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(ValueError, match=says):
        load_recipe(made / "sums.py")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"question": "a"}',
            "sums.py:13: to_row fails for record 1 .KeyError: 'answer'.; it has question; fix to_row",
        ),
        (
            '{"question": "a", "answer": [1]}',
            "to_row fails for record 1 .ValueError: answer is .1. .list.; write text or a finite number",
        ),
        ('{"question": "a", "answer": "1"}\n{"ques', "sums.jsonl:2 is not JSON"),
    ],
)
def test_a_record_that_cannot_be_read_is_named_by_its_place(made, text, says):
    build(made)
    (made / "sums.jsonl").write_text(text)
    code, printed = build(made)
    assert code == 2
    assert re.search(says, printed.replace("\n", "")), printed
    assert len(Dataset(made / "out/train")) == 4, "the set that was there is gone"


def answers(folder) -> list[str]:
    dataset = Dataset(folder)
    return sorted(dataset[number].answer for number in range(len(dataset)))


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_numbers_and_booleans_of_json_become_text_as_they_are_written(made, suffix):
    (made / "echo.py").write_text(ECHO)
    written = ["0", "7", "7.0", "0.10", "1e3", "-2.50", "12345678901234567890", "true", "false"]
    records = [f'{{"question": "{n}?", "answer": {text}}}' for n, text in enumerate(written)]
    text = f"[{', '.join(records)}]" if suffix == ".json" else "\n".join(records)
    (made / f"numbers{suffix}").write_text(text)
    code, printed = build_from(made, f"numbers{suffix}")
    assert code == 0, printed
    assert answers(made / "out/train") == sorted(written)


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ('"answer": NaN', "its answer is not a finite number"),
        ('"answer": -Infinity', "its answer is not a finite number"),
        ('"answer": null', "neither an answer nor meta to verify by"),
        ('"answer": "\\ud800"', "a text that is not Unicode"),
        ('"question": "a\\udc00"', "a text that is not Unicode"),
        ('"question": null', "no question"),
        ('"response": "\\ud83d"', "a text that is not Unicode"),
        ('"meta": {"note": ["\\ud83d"]}', "a text that is not Unicode"),
        ('"meta": {"\\ud83d": 1}', "a text that is not Unicode"),
    ],
)
def test_a_field_that_cannot_be_written_costs_its_record_alone(made, field, reason):
    (made / "echo.py").write_text(ECHO)
    good = [f'{{"question": "{n}?", "answer": "1"}}' for n in range(2)]
    (made / "rows.jsonl").write_text("\n".join([good[0], f'{{"question": "b?", "answer": "1", {field}}}', good[1]]))
    code, printed = build_from(made, "rows.jsonl")
    assert code == 0, printed
    assert f"1 {reason} (the first: record 2" in printed and len(Dataset(made / "out/train")) == 2


@pytest.mark.parametrize("line", ["1" * 5000, "[" * 100_000])
def test_json_that_python_cannot_read_is_a_sentence(made, line):
    (made / "sums.jsonl").write_text('{"question": "1 + 1", "answer": "2"}\n' + line)
    code, printed = build(made)
    assert code == 2 and "sums.jsonl:2 " in printed.replace("\n", "")


def test_a_build_that_keeps_too_few_says_so_ends_with_2_and_keeps_the_old_sets(made):
    build(made)
    raws = [{"question": SENTENCE.format(n), "answer": "five" if n < 6 else "5"} for n in range(10)]
    (made / "sums.jsonl").write_text("\n".join(map(json.dumps, raws)))
    before = (made / "out/train/manifest.json").read_bytes()
    code, printed = build(made)
    assert code == 2
    assert "only 4 of 10 records passed the checks, a share below 0.5" in printed
    assert "6 its own answer is not accepted by chain_sum (bad_row)" in printed
    assert (made / "out/train/manifest.json").read_bytes() == before
    assert len((made / "out/left_out.jsonl").read_text().splitlines()) == 6
    assert build(made, "out", "--min-kept", 0.4)[0] == 0
    assert (made / "out/train/manifest.json").read_bytes() != before


def test_records_that_the_recipe_drops_and_repeated_ones_do_not_count_as_too_few(made):
    raws = [{"question": SENTENCE.format(0), "answer": ""}] * 20 + [
        {"question": SENTENCE.format(n % 4), "answer": "5"} for n in range(20)
    ]
    (made / "sums.jsonl").write_text("\n".join(map(json.dumps, raws)))
    assert build(made, "out", "--min-kept", 1)[0] == 0


def test_a_build_without_any_row_left_fails_whatever_share_is_asked_for(made):
    (made / "sums.jsonl").write_text('{"question": "1 + 1", "answer": "two"}')
    code, printed = build(made, "out", "--eval", 0, "--min-kept", 0)
    assert code == 2 and "no row is left" in printed


GUESSED = """
def guessed(rows):
    return ["always 7" if row.answer == "7" else "" for row in rows]
"""


def test_rows_that_a_guess_solves_are_left_out_and_a_fault_of_guessed_is_a_sentence(made):
    (made / "noted.py").write_text(NOTED.format(calls=str(made / "calls")) + GUESSED)
    code, printed = build(made, "out", "--task", "noted", "--tasks", made)
    assert code == 0, printed
    assert "2 right without a look at the picture (the first: record 6, always 7)" in printed
    (made / "broken.py").write_text(NOTED.format(calls=str(made / "calls")) + GUESSED.replace("row.answer", "row.gold"))
    code, printed = build(made, "out", "--task", "broken", "--tasks", made)
    assert code == 2 and "broken.py: guessed fails (AttributeError: " in printed.replace("\n", "")


def test_rows_without_anything_to_verify_by_are_left_out_and_counted(made):
    (made / "sums.py").write_text(RECIPE.replace('raise Drop("no answer")', "pass"))
    code, printed = build(made)
    assert code == 0
    assert "1 neither an answer nor meta to verify by" in printed


def test_data_in_place_of_a_recipe_and_files_that_are_not_there_are_sentences(made):
    assert "is not a recipe; a recipe is a .py file" in data("build", made, "--out", made / "out")[1]
    assert "name the task that verifies the rows with --task" in data("build", made / "sums.jsonl", "--out", made / "out")[1]
    assert "no file nowhere.csv" in data("build", made / "sums.py", "--out", made / "out", "--from", "nowhere.csv")[1]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("yield {}['x']", "sums.py:10: raws fails after 0 records of .*sums.jsonl .KeyError: 'x'.; fix raws or the source"),
        (
            "yield {'question': 'a', 'answer': '1'}; int('x')",
            "sums.py:10: raws fails after 1 records .*ValueError: invalid",
        ),
        ("return open('nowhere')", "sums.py:10: raws fails after 0 records .*FileNotFoundError"),
    ],
)
def test_a_fault_of_raws_is_one_sentence_with_its_place(made, body, says):
    (made / "sums.py").write_text(RECIPE.replace('yield from records(source, "nobody/nothing", split="train")', body))
    code, printed = build(made)
    assert code == 2
    assert re.search(says, printed.replace("\n", "")), printed


@pytest.mark.parametrize(
    ("made_by", "says"),
    [
        ("None", "to_row must return a NewRow, got NoneType"),
        ('NewRow(question="a", answer="1", images="a.png")', "images must be a tuple"),
        ('NewRow(question="a", answer="1", images=(7,))', "images must be paths or encoded bytes, got 7 .int"),
        ('NewRow(question="a", meta={"set": {1}})', "Object of type set is not JSON serializable"),
        ("[][0]", "IndexError: list index out of range"),
    ],
)
def test_what_is_no_row_is_one_sentence_with_its_record(made, made_by, says):
    (made / "sums.py").write_text(RECIPE.replace('NewRow(question=raw["question"], answer=raw["answer"])', made_by))
    code, printed = build(made)
    assert code == 2
    assert re.search(f"to_row fails for record 1 .*{says}", printed.replace("\n", "")), printed

"""Rows in one line: data sets of every shape become rows by their columns, and what cannot is refused in a sentence."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.building import data, questions
from tests.data.shapes import NUMBERS, SHAPES, as_jsonl, made
from vlrl.common.columns import parse_columns
from vlrl.data.cells import plain_text, value_at
from vlrl.data.shards import Dataset


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_data_set_of_this_shape_becomes_rows_by_one_line(shape, tmp_path, pool):
    (tmp_path / "source").mkdir()
    source = shape.write(tmp_path / "source")
    built, left_out = made(source, shape.columns, shape.task, shape.held_out, tmp_path / "out", pool)
    num_records, num_rows = shape.rows
    assert sum(map(len, built.values())) == num_rows == num_records - len(left_out)
    assert Counter(left.reason for left in left_out) == shape.left_out
    rows = [dataset[number] for dataset in built.values() for number in range(len(dataset))]
    found = [{"question": row.question, "answer": row.answer, "response": row.response, "meta": row.meta} for row in rows]
    found = [fields | {"images": len(row.images)} for fields, row in zip(found, rows, strict=True)]
    assert not shape.first or any(shape.first.items() <= fields.items() for fields in found), found


SUMS = [{"question": f"{n} + 1?", "answer": n + 1, "parts": [n, 1], "choices": ["1", "2", "3"], "as": "chat"} for n in range(6)]
ASKED = [{"prompt": [{"role": "user", "content": "1 + 1?"}], "answer": "2"}]


def build(tmp_path, records, columns: str, task: str = "math_number", *more: str) -> tuple[int, str]:
    source = as_jsonl(tmp_path, *records)
    return data("build", source, "--columns", columns, "--task", task, "--out", tmp_path / "out", *more)


@pytest.mark.parametrize(
    ("columns", "task", "says"),
    [
        (
            "question=queston,answer=answer",
            "math_number",
            "has no column 'queston' for question; did you mean 'question'? its columns: ",
        ),
        ("question=question,answer=answer.value", "math_number", "has no column 'answer.value' for answer; "),
        (
            "question=parts,answer=answer",
            "math_number",
            "column 'parts' holds a list ([0, 1]), but question must be a text or a finite",
        ),
        (
            "question=question,answer=answer,images=answer",
            "math_number",
            "column 'answer' holds a number (1), but images must be a path,",
        ),
        (
            "messages=as",
            "math_number",
            "column 'as' holds a text ('chat'), but messages must be a list of turns, such as [{role: user",
        ),
        (
            "question=question,answer=answer,options=as",
            "multiple_choice",
            "column 'as' holds a text ('chat'), but options must be a list",
        ),
        (
            "question=question,answer=as,options=choices",
            "multiple_choice",
            "no answer is an option's letter, its text, or its number from 0",
        ),
        (
            "question=question,answer=as",
            "math_number",
            "no row is left; left out: 6 its own answer is not accepted by math_number (bad_row)",
        ),
        ("question=question,answer=answer", "maths_number", "no task 'maths_number' in ['tasks']; did you mean 'math_number'?"),
        (
            "question=question,anwser=answer",
            "math_number",
            "no field 'anwser'; did you mean 'answer'? fields: question, answer, images",
        ),
        ("answer=answer", "math_number", "--columns: names neither question nor messages; name one, as in question: problem"),
        ("question", "math_number", "--columns 'question': write FIELD=COLUMN, as in question=problem,answer=answer"),
        ("question=question,answer=as,answer=answer", "math_number", "answer has the columns as and answer; it may have one"),
    ],
)
def test_columns_that_cannot_be_used_are_refused_in_a_sentence(tmp_path, columns, task, says):
    code, printed = build(tmp_path, SUMS, columns, task)
    assert code == 2 and says in " ".join(printed.split()), printed
    assert not (tmp_path / "out/train").exists()


def test_a_chat_as_question_is_named_as_messages(tmp_path):
    assert "it is a chat, so name it as messages: prompt" in build(tmp_path, ASKED, "question=prompt,answer=answer")[1]
    assert build(tmp_path, ASKED, "messages=prompt,answer=answer")[0] == 0


def test_without_columns_each_field_takes_the_column_of_its_own_name(tmp_path):
    source = as_jsonl(tmp_path, *({"question": each["question"], "answer": each["answer"], "id": 1} for each in SUMS))
    assert data("build", source, "--task", "math_number", "--eval", 2, "--out", tmp_path / "out")[0] == 0
    train, held_out = Dataset(tmp_path / "out/train"), Dataset(tmp_path / "out/eval")
    assert (len(train), len(held_out), train[0].meta) == (4, 2, {})
    code, printed = data("build", as_jsonl(tmp_path, *ASKED), "--task", "math_number", "--out", tmp_path / "out")
    assert code == 2 and "name the columns of question and answer, as in columns: {question: problem" in printed


def test_the_manifest_names_source_contents_columns_and_task(tmp_path):
    assert build(tmp_path, SUMS, "question=question,answer=answer")[0] == 0
    manifest = Dataset(tmp_path / "out/train").manifest
    assert "rows.jsonl (sha256 " in manifest.source and manifest.source.endswith("; columns question=question, answer=answer")
    assert (manifest.task, manifest.licence, manifest.num_rows) == ("math_number", "not named by the source", 6)


def test_another_source_may_be_held_out_and_training_loses_what_is_in_both(tmp_path, pool):
    train = as_jsonl(tmp_path, *SUMS, name="train.jsonl")
    held_out = as_jsonl(tmp_path, *SUMS[:2], {"question": "9 + 1?", "answer": 10}, name="held_out.jsonl")
    built, left_out = made(train, "question=question,answer=answer", "math_number", held_out, tmp_path / "out", pool)
    assert {name: len(rows) for name, rows in built.items()} == {"eval": 3, "train": 4}
    assert [left.reason for left in left_out] == ["asked before"] * 2


def test_held_out_rows_are_the_same_in_every_build(tmp_path, pool):
    source, chosen = as_jsonl(tmp_path, *SUMS), []
    for out in ("one", "two"):
        made(source, "question=question,answer=answer", "math_number", 3, tmp_path / out, pool)
        chosen.append(questions(tmp_path / out / "eval"))
    assert chosen[0] == chosen[1] and not chosen[0] & questions(tmp_path / "one/train")


def choices(*answers, options=tuple(NUMBERS.values())) -> list[dict]:
    return [{"question": f"Which, {n}?", "answer": answer, "options": list(options)} for n, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        (choices("a", "(B)", "D."), "ABD"),
        (choices("two", "four", "one"), "BDA"),
        (choices(0, 3, 1), "ADB"),
        (choices("0", "3"), "AD"),
        (choices(7, 5, options=(5, 6, 7)), "CA"),
    ],
)
def test_an_answer_is_an_option_s_letter_text_or_number_from_0(tmp_path, records, expected):
    assert build(tmp_path, records, "question=question,answer=answer,options=options", "multiple_choice")[0] == 0
    dataset = Dataset(tmp_path / "out/train")
    rows = sorted((dataset[number] for number in range(len(dataset))), key=lambda row: row.question)
    assert "".join(row.answer for row in rows) == expected


@pytest.mark.parametrize(
    ("records", "says"),
    [
        (choices(1, 2, 3, 4), "has the answer 4 of 4 options: it counts them from 1"),
        (choices(0, 1, options=(1, 0)), "the answers can be read as texts and as numbers of options"),
    ],
)
def test_answers_that_would_be_read_wrongly_are_refused(tmp_path, records, says):
    code, printed = build(tmp_path, records, "question=question,answer=answer,options=options", "multiple_choice")
    assert code == 2 and says in " ".join(printed.split())


def test_a_wrong_value_after_the_first_records_costs_its_own_record(tmp_path):
    code, printed = build(tmp_path, [*SUMS, {"question": ["a", "list"], "answer": 3}], "question=question,answer=answer")
    assert code == 0 and "1 column 'question' must be a text or a finite number (the first: record 7, a list" in printed


def test_other_columns_reach_the_verifier_in_meta(tmp_path):
    assert build(tmp_path, SUMS, "question=question,answer=answer,meta.parts=parts")[0] == 0
    dataset = Dataset(tmp_path / "out/train")
    assert {tuple(dataset[number].meta["parts"]) for number in range(6)} == {(n, 1) for n in range(6)}


def test_a_recipe_and_columns_exclude_one_another():
    code, printed = data("build", "data_recipes/gsm8k.py", "--columns", "question=question", "--out", "unused")
    assert code == 2 and "a recipe chooses its columns in to_row" in printed


@settings(deadline=None)
@given(st.integers())
def test_a_whole_number_is_written_without_a_point_and_none_changes_its_value(number):
    assert plain_text(number) == str(number)
    if abs(number) <= 2**53:
        assert plain_text(float(number)) == str(number)


@settings(deadline=None)
@given(st.recursive(st.integers(), lambda inner: st.dictionaries(st.text("abc", min_size=1), inner, min_size=1), max_leaves=8))
def test_dots_lead_to_every_value_inside_objects(value):
    def leaves(value, path=()):
        if isinstance(value, dict):
            return [leaf for name, each in value.items() for leaf in leaves(each, (*path, name))]
        return [(path, value)]

    assert all(value_at({"top": value}, ".".join(("top", *path))) == leaf for path, leaf in leaves(value))


FIELD = st.sampled_from(["answer", "response", "images", "options", "meta.level"])


@settings(deadline=None)
@given(st.dictionaries(FIELD, st.text("xyz.", min_size=1), max_size=5))
def test_columns_come_back_from_their_text(fields):
    text = ",".join(f"{field}={column}" for field, column in ({"question": "q"} | fields).items())
    columns = parse_columns([text])
    assert columns.by_field == {field: (column,) for field, column in ({"question": "q"} | fields).items()}
    assert parse_columns(str(columns).split(", ")) == columns

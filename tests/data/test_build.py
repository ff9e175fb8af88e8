"""Data sets from recipes: answers that their verifier refuses, near copies of evaluation questions, and what is told of them."""

import doctest
import io
import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image

import vlrl.data.build
from tests.data.building import NOTED, SENTENCE, build, data, questions
from vlrl.data.recipe import split
from vlrl.data.shards import Dataset, NewRow, write_dataset


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(vlrl.data.build).failed == 0


def test_rows_with_answers_that_the_verifier_refuses_are_left_out_and_told(made):
    code, printed = build(made)
    assert code == 0, printed
    assert (len(Dataset(made / "out/train")), len(Dataset(made / "out/eval"))) == (4, 3)
    for reason in ("1 no answer", "1 asked before", "1 its own answer is not accepted by chain_sum (bad_row)"):
        assert reason in printed
    assert Dataset(made / "out/train").manifest.source == str(made / "sums.jsonl")


def test_two_builds_are_the_same_bytes(made):
    for out in ("one", "two"):
        build(made, out)
    one, two = ({path.name: path.read_bytes() for path in (made / out / "train").iterdir()} for out in ("one", "two"))
    assert one == two


def test_near_copies_of_an_evaluation_set_are_not_trained_on(made):
    rows = [NewRow(question=SENTENCE.format(8).upper() + " Think.", answer="9")]
    write_dataset(made / "test", rows, source="", licence="", recipe="test", recipe_version=1)
    code, printed = build(made, "out", "--against", made / "test", "--eval", 0, "--ngram", 9, "--overlap", 1.0)
    assert code == 0, printed
    assert "1 like a question of another evaluation set" in printed
    assert SENTENCE.format(8) not in questions(made / "out/train")
    assert len(questions(made / "out/train")) == 6


def test_a_picture_question_is_a_near_copy_only_with_the_same_picture(made):
    def picture(shade: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, format="PNG")
        return file.getvalue()

    rows = [NewRow(question="How many are there?", answer="1", images=(picture(1),))]
    held_out = write_dataset(made / "test", rows, source="", licence="", recipe="test", recipe_version=1)
    near = vlrl.data.build._HeldOut([held_out], ngram=8, overlap=0.5)
    again = [NewRow(question="How many are there?", answer="1", images=(picture(shade),)) for shade in (1, 2)]
    assert [near.is_near(row) for row in again] == [True, False]


def test_what_is_left_out_is_told_record_by_record(made):
    build(made)
    left_out = [json.loads(line) for line in (made / "out/left_out.jsonl").read_text().splitlines()]
    dropped = {"record": 4, "reason": "no answer", "question": "", "detail": "", "is_fault": False}
    again = {"record": 7, "reason": "asked before", "question": SENTENCE.format(6), "detail": "the same as record 6"}
    again["is_fault"] = False
    refused = "its own answer is not accepted by chain_sum (bad_row)"
    why = "'\\\\boxed{five}' gets bad_row: the reference answer 'five' is not a number"
    assert dropped in left_out and again in left_out
    assert {"record": 5, "reason": refused, "question": SENTENCE.format(4), "detail": why, "is_fault": True} in left_out
    assert {left["record"] for left in left_out} == {4, 5, 7}


def test_rows_beyond_the_sizes_of_the_sets_are_told(made):
    code, printed = build(made, "out", "--train", 3, "--eval", 2)
    assert code == 0, printed
    assert "2 more than the sets' sizes ask for" in printed


def test_a_row_whose_answer_is_refused_does_not_take_the_place_of_a_later_one_with_its_question(made):
    raws = [{"question": SENTENCE.format(n), "answer": answer} for n, answer in enumerate(["one", "2", "3", "4", "5"])]
    raws += [raws[0] | {"answer": "1"}, raws[0], raws[1] | {"answer": "9"}]
    (made / "sums.jsonl").write_text("\n".join(map(json.dumps, raws)))
    code, printed = build(made, "out", "--eval", 0)
    assert code == 0, printed
    assert questions(made / "out/train") == {SENTENCE.format(n) for n in range(5)}
    left_out = [json.loads(line) for line in (made / "out/left_out.jsonl").read_text().splitlines()]
    reasons = {left["record"]: (left["reason"], left["detail"]) for left in left_out}
    assert reasons.keys() == {1, 7, 8}
    assert reasons[1] == reasons[7] and "chain_sum (bad_row)" in reasons[1][0]
    assert reasons[8] == ("asked before, with another answer", "'9', in record 2 '2'")


def test_a_build_that_was_stopped_goes_on_with_the_answers_that_it_had_accepted(made, monkeypatch):
    (made / "noted.py").write_text(NOTED.format(calls=str(made / "calls")))
    arguments = ("--task", "noted", "--tasks", made)
    with monkeypatch.context() as broken:
        broken.setattr(vlrl.data.build, "write_datasets", lambda *_, **__: 1 / 0)
        assert build(made, "out", *arguments)[0] == 2
    assert (made / "calls").read_text() == "x" * 8, "each once"
    code, printed = build(made, "out", *arguments)
    assert code == 0, printed
    assert (made / "calls").read_text() == "x" * 9, "the refused one again"
    (made / "noted.py").write_text(NOTED.format(calls=str(made / "calls")) + "# stricter")
    build(made, "out", *arguments)
    assert (made / "calls").read_text() == "x" * 17, "a finished build, or another verifier, begins afresh"


def test_more_rows_than_there_are_is_a_sentence(made):
    code, printed = build(made, "out", "--train", 50)
    assert code == 2
    assert "sums: 53 rows were requested, but only 7 exist" in printed
    assert "left out: 1 no answer (the first: record 4)" in printed


def test_a_check_names_the_rows_whose_answers_are_refused(made):
    rows = [NewRow(question="1 + 1", answer="2"), NewRow(question="1 + 2", answer="three")]
    write_dataset(made / "rows", rows, source="", licence="", recipe="sums", recipe_version=1)
    code, printed = data("check", made / "rows", "--task", "chain_sum")
    assert code == 1
    assert "row 00000001: its own answer is not accepted by chain_sum (bad_row): '\\\\boxed{three}' gets bad_row: " in printed


def test_a_check_with_another_task_names_the_first_refused_rows_with_the_reason_and_counts_the_rest(made):
    rows = [NewRow(question=f"Colour {n}?", answer="blue") for n in range(5)]
    write_dataset(made / "rows", rows, source="", licence="", recipe="sky", recipe_version=1, task="sky")
    code, printed = data("check", made / "rows", "--task", "chain_sum")
    assert code == 1
    *faults, rest, summary = printed.splitlines()
    assert [fault[:13] for fault in faults] == ["row 00000000:", "row 00000001:", "row 00000002:"]
    assert all("'blue' is not a number" in fault for fault in faults)
    assert rest == "and 2 more with an answer that is not accepted"
    assert summary.endswith("5 with an answer that is not accepted by chain_sum (the set was built for sky)")
    assert data("check", made / "rows", "--task", "chain_sum", "--num", 5)[1].count("\nrow ") == 4


def test_a_data_set_says_which_task_its_rows_were_checked_with_and_is_checked_with_it(made):
    build(made)
    assert Dataset(made / "out/train").manifest.task == "chain_sum"
    assert data("check", made / "out")[0] == 0
    write_dataset(made / "alone", [NewRow(question="1 + 1", answer="2")], source="", licence="", recipe="", recipe_version=1)
    code, printed = data("check", made / "alone")
    assert code == 2 and "the manifest names no task; name the task that verifies the rows with --task" in printed.replace(
        "\n", " "
    )
    assert "no task 'chain_sun'" in data("check", made / "out", "--task", "chain_sun")[1].replace("\n", " ")


def test_a_data_set_is_shown_with_its_manifest(made):
    build(made)
    code, printed = data("show", made / "out/eval", "--num", 1)
    assert code == 0
    assert '"licence": "none"' in printed and '"task": "chain_sum"' in printed and '"question": "How much' in printed


def test_one_row_is_shown_by_its_number(made):
    build(made)
    code, printed = data("show", made / "out/train", "--row", 2, "--num", 1)
    assert code == 0
    assert printed.count('"question"') == 1 and '"key": "00000002"' in printed


def test_a_verifier_that_raises_is_told_with_its_line_though_the_build_goes_on(made, caplog):
    (made / "chain_sum.py").write_text(
        NOTED.replace("    with open", "    assert row.answer != '8'\n    with open").format(calls="/dev/null")
    )
    code, printed = build(made, "out", "--tasks", made)
    assert code == 0, printed
    assert "the verifier of chain_sum failed on 1 of 9 records" in caplog.text and "chain_sum.py:8" in caplog.text


def test_a_build_that_writes_no_eval_refuses_to_leave_an_older_one_beside_its_train(made):
    build(made)
    code, printed = build(made, "out", "--eval", 0, "--seed", 1)
    assert code == 2
    assert "out/eval is from an earlier build, and this build writes no eval (--eval 0)" in printed.replace("\n", "")
    assert build(made, "another", "--eval", 0)[0] == 0


def test_a_check_of_a_build_s_folder_finds_rows_that_are_in_both_sets(made):
    build(made)
    assert data("check", made / "out", "--task", "chain_sum")[0] == 0
    build(made, "other", "--seed", 1)
    shutil.rmtree(made / "out/eval")
    shutil.copytree(made / "other/eval", made / "out/eval")
    both = questions(made / "out/train") & questions(made / "out/eval")
    code, printed = data("check", made / "out/eval", "--task", "chain_sum")
    assert (code, len(both) > 0) == (1, True)
    assert f"{len(both)} that are also in {made}/out/train" in printed
    assert "are from different builds; build both again with one command" in printed


def test_a_set_that_no_row_is_left_for_is_a_sentence():
    with pytest.raises(ValueError, match="no row is left for train: the other set takes all 5 that exist"):
        split([(number, number) for number in range(5)], {"train": None, "eval": 5}, 0)


def test_a_build_from_a_file_and_a_check_do_not_load_torch(made):
    (made / "sums.csv").write_text("question,answer\n" + "".join(f"{n} + 1,{n + 1}\n" for n in range(9)))
    code = (
        "import sys\nfrom vlrl.cli.main import app\n"
        f"for command in (['build', r'{made}/sums.py', '--out', r'{made}/out', '--from', r'{made}/sums.csv'],\n"
        f"                ['check', r'{made}/out', '--task', 'chain_sum'], ['show', r'{made}/out/eval']):\n"
        "    try:\n        app(['data', *command])\n    except SystemExit as end:\n        assert not end.code\n"
        "sys.exit(', '.join(name for name in ('torch', 'transformers', 'vllm', 'datasets') if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

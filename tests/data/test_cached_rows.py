"""Rows of a run file's source: built once, used again, never other than those that a run began with."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import PATIENCE_S
from tests.data.shapes import TASKS, as_jsonl
from tests.preflight import good_run as runs
from vlrl.cli.main import app
from vlrl.data.row_cache import CACHE
from vlrl.data.shards import NewRow, write_dataset
from vlrl.data.source_files import Source
from vlrl.data.sources import SourceError
from vlrl.inputs import row_folders, train_rows
from vlrl.preflight.quick_checks import check_inputs
from vlrl.prepare import build_missing_rows
from vlrl.run_file import dump_config, load_config, parse_config

COLUMNS = {"question": "problem", "answer": "meta.sum"}


def write_sums(folder: Path, *numbers: int, name: str = "sums.jsonl") -> Path:
    return as_jsonl(folder, *({"problem": f"What is {n} + 1?", "meta": {"sum": n + 1}} for n in numbers), name=name)


def config_of(**mix):
    mixture = {"sums": {"weight": 1, "task": "math_number", "columns": COLUMNS} | mix}
    raw = {"name": "x", "model": "m", "steps": 2, "prompts_per_step": 2, "mixture": mixture, "task_folders": [str(TASKS)]}
    return parse_config(raw, "run.yaml")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sums(tmp_path, *range(8))
    return tmp_path


def folders(**mix) -> tuple[Path, Path | None]:
    """Builds what is missing, and returns the folders of training and held-out rows."""
    config = config_of(**mix)
    build_missing_rows(config)
    return row_folders("sums", config.mixture["sums"])


def test_rows_are_built_once_and_then_used_again(here, capsys):
    train, held_out = folders(rows="sums.jsonl", eval_rows=3)
    assert "Building the rows of sums from sums.jsonl" in capsys.readouterr().out
    written = (train / "manifest.json").stat().st_mtime_ns
    assert folders(rows="sums.jsonl", eval_rows=3) == (train, held_out)
    assert not capsys.readouterr().out and (train / "manifest.json").stat().st_mtime_ns == written
    assert train.parent == held_out.parent and train.is_relative_to(CACHE)


def test_another_source_content_column_task_or_held_out_part_has_a_folder_of_its_own(here):
    write_sums(here, *range(8), name="other.jsonl")

    def folder(**mix) -> Path:
        return row_folders("sums", config_of(**mix).mixture["sums"])[0]

    seen = [folder(rows="sums.jsonl")]
    seen += [folder(rows="sums.jsonl", eval_rows=2), folder(rows="sums.jsonl", eval_rows=3), folder(rows="other.jsonl")]
    seen += [folder(rows="sums.jsonl", task="math_expression"), folder(rows="sums.jsonl", columns={"question": "problem"})]
    write_sums(here, *range(9))
    assert len({*seen, folder(rows="sums.jsonl")}) == len(seen) + 1


def test_held_out_rows_may_be_a_number_a_split_another_file_or_a_data_set(here):
    write_sums(here, *range(6), name="both/train.jsonl")
    write_sums(here, 20, 21, name="both/test.jsonl")
    write_sums(here, 30, 31, 32, name="held_out.jsonl")
    built = folders(rows="sums.jsonl")[0]
    sizes = {
        name: len(train_rows("sums", config_of(rows=held_out, columns=None).mixture["sums"]))
        for name, (_, held_out) in {
            "number": folders(rows="sums.jsonl", eval_rows=3),
            "split": folders(rows="both", eval_rows="split:test"),
            "file": folders(rows="sums.jsonl", eval_rows="held_out.jsonl"),
            "set": folders(rows="held_out.jsonl", eval_rows=str(built)),
        }.items()
    }
    assert sizes == {"number": 3, "split": 2, "file": 3, "set": 8}


@pytest.mark.parametrize(
    ("mix", "says"),
    [
        ({"rows": "sums.jsonl:test"}, "sums.jsonl:test: a file has no splits; leave out :test"),
        ({"rows": "sms.jsonl"}, "no file or folder sms.jsonl; did you mean 'sums.jsonl'?"),
        ({"rows": "sums.jsonl", "task": "math_numbr"}, "mixture.sums: no task 'math_numbr' in "),
        (
            {"rows": "sums.jsonl", "columns": {"question": "problm", "answer": "meta.sum"}},
            "no column 'problm' for question; did you mean",
        ),
        ({"rows": "sums.jsonl", "eval_rows": 9}, "9 rows were requested, but only 8 exist"),
        ({"rows": "sums.jsonl", "eval_rows": "sums.jsonl"}, "1 rows were requested for train, but only 0 exist"),
        (
            {"rows": "set", "columns": None, "eval_rows": 3},
            "mixture.sums.eval_rows: 3 is part of a source, and rows set is a data set",
        ),
        ({"rows": "set", "columns": None, "eval_rows": "split:test"}, "eval_rows: split:test is part of a source"),
        ({"rows": "set"}, "mixture.sums.columns: rows set is a data set, whose rows are made already; leave out columns"),
        (
            {"rows": "hub:geometry3k"},
            "'hub:geometry3k' is not a source; write hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT], a file",
        ),
    ],
)
def test_rows_that_cannot_be_built_are_refused_in_a_sentence(here, mix, says):
    write_dataset(here / "set", [NewRow(question="1 + 1?", answer="2")], source="", licence="", recipe="", recipe_version=1)
    with pytest.raises(ValueError) as refusal:
        build_missing_rows(config_of(**mix))
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("mix", "says"),
    [
        (
            {"columns": {"question": "q", "anwser": "a"}},
            "mixture.sums.columns.anwser: unknown key 'anwser'; did you mean 'answer'?",
        ),
        (
            {"columns": {"answer": "a"}},
            "mixture.sums.columns: names neither question nor messages; name one, as in question: problem",
        ),
        ({"columns": {"messages": "m", "response": "r"}}, "names both response and messages"),
        ({"eval_rows": 0}, "mixture.sums.eval_rows"),
    ],
)
def test_columns_are_checked_with_the_run_file(mix, says):
    with pytest.raises(ValueError) as refusal:
        config_of(rows="sums.jsonl", **mix)
    assert says in str(refusal.value)


def test_a_source_that_nobody_has_built_yet_is_a_sentence(here):
    mix = config_of(rows="hub:made/sums").mixture["sums"]
    with pytest.raises(SourceError, match="hub:made/sums is not built yet; vlrl prepare RUN.yaml builds it"):
        row_folders("sums", mix)
    with pytest.raises(ValueError, match="is not a complete data set"):
        train_rows("sums", config_of(rows="sums.jsonl").mixture["sums"])


def test_a_plan_builds_the_rows_and_draws_from_them(here):
    raw = config_of(rows="sums.jsonl", eval_rows=2).model_dump(mode="json", exclude_defaults=True)
    (here / "run.yaml").write_text(yaml.safe_dump(raw))
    printed = CliRunner().invoke(app, ["plan", "run.yaml"]).output
    assert "epochs of 6 rows" in printed and "question: problem" in printed


def test_a_run_resumes_with_the_same_rows_and_is_refused_with_others(tiny_dense, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.write_good_run(Path(tiny_dense))
    write_sums(tmp_path, *range(8))
    own = "mixture.sums={weight: 1, rows: sums.jsonl, columns: {question: problem, answer: meta.sum}, eval_rows: 2}"
    config = load_config(Path("run.yaml"), (own,))
    build_missing_rows(config)
    runs.write_checkpoint(own)
    check_inputs(config)
    write_sums(tmp_path, *range(1, 9))
    build_missing_rows(config)
    with pytest.raises(ValueError, match="cannot resume") as refusal:
        check_inputs(config)
    assert "data" in str(refusal.value)


def test_a_command_that_waited_for_another_one_s_build_uses_it(here, monkeypatch):
    """Both find nothing built; the second gets the folder when the first is done, and must not replace what a run reads."""
    config, before = config_of(rows="sums.jsonl"), []

    @contextmanager
    def after_another(folder, **_):
        if not before:
            before.append(folder)
            build_missing_rows(config)
            before.append((folder / "train/manifest.json").stat().st_ino)
        yield

    monkeypatch.setattr("vlrl.prepare.held", after_another)
    build_missing_rows(config)
    assert (before[0] / "train/manifest.json").stat().st_ino == before[1]


@pytest.mark.parametrize("columns", [None, {}, COLUMNS, {"messages": "m"}, {"question": ["a", "b"], "meta": {"c": "d"}}])
def test_the_run_s_own_file_names_the_same_rows(here, columns):
    config = config_of(rows="sums.jsonl", eval_rows=2, columns=columns)
    again = parse_config(yaml.safe_load(dump_config(config)), "config.yaml")
    assert row_folders("sums", again.mixture["sums"]) == row_folders("sums", config.mixture["sums"])


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hub:a/b", Source(place="a/b", on_hub=True)),
        ("hub:a/b/c@refs/pr/1:test", Source(place="a/b", on_hub=True, config="c", revision="refs/pr/1", split="test")),
        ("hub:a/b@v1", Source(place="a/b", on_hub=True, revision="v1")),
        ("hub:a/b:test", Source(place="a/b", on_hub=True, split="test")),
        ("some/folder:validation", Source(place="some/folder", split="validation")),
        ("rows.jsonl", Source(place="rows.jsonl")),
    ],
)
def test_a_source_is_read_from_its_line_and_written_back(text, source):
    assert Source.parse(text) == source and str(source) == text


def test_a_source_on_the_hub_is_built_at_one_commit(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.hub_run", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0 and "all hold" in done.stdout, done.stdout + done.stderr

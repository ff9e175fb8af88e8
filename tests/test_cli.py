"""What the commands have in common, and those that only one line of the library stands behind."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from tests.conftest import PATIENCE_S
from vlrl.cli import app
from vlrl.data.shards import NewRow, write_dataset

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def command(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def write_set(folder: Path, question: str, num: int = 5) -> Path:
    rows = [NewRow(question=f"{question} {number}?", answer=str(number)) for number in range(num)]
    return write_dataset(folder, rows, source="made here", licence="none", recipe="test", recipe_version=1).folder


def test_a_tiny_model_learns_only_the_texts_that_are_named_and_says_which(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlrl.model.tiny.build_tiny", lambda folder, texts, **_: len("".join(texts)))
    sums, other = write_set(Path("data/sums/train"), "How much is"), write_set(Path("data/other/train"), "Whatever is the number")
    code, printed = command("tiny", "model", "--texts", sums)
    assert (code, printed) == (0, "model: 0.00 M parameters; its tokenizer learned from data/sums/train\n")
    assert f"learned from {other}, {sums}\n" in command("tiny", "model")[1]
    assert "did you mean data/sums/train?" in command("tiny", "model", "--texts", "data/sum/train")[1].replace("\n", "")


def test_make_names_the_sets_of_the_laptop_s_run_to_the_tiny_model():
    planned = subprocess.run(["make", "-n", "-B", "models/tiny/config.json"], cwd=ROOT, capture_output=True, text=True).stdout
    (line,) = [line for line in planned.splitlines() if "vlrl tiny" in line]
    tasks = ["chain_sum", "counting", "digits", "functions", "knights"]
    assert line.split()[2:] == ["models/tiny", *(word for task in tasks for word in ("--texts", f"data/{task}/train"))]


def test_folders_that_are_not_there_are_refused_before_what_takes_seconds_to_import(tmp_path):
    (tmp_path / "runs/cpu").mkdir(parents=True)
    (tmp_path / "runs/cpu/config.yaml").touch()
    code = (
        "import sys\nfrom vlrl.cli import app\n"
        "for command in (['compare', 'one', 'two'], ['report', 'runs/cpuu']):\n"
        "    try:\n        app(command)\n    except SystemExit as end:\n        assert end.code == 2\n"
        "sys.exit(', '.join({'torch', 'transformers', 'vllm', 'scipy', 'plotly'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert "there is no folder one" in done.stderr
    assert "runs/cpuu is no run's folder: there is none of that name; did you mean runs/cpu? " in done.stderr

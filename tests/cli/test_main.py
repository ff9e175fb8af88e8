"""What all commands share, and the commands that only call one function of the library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import PATIENCE_S
from vlrl.cli.main import app
from vlrl.data.shards import NewRow, write_dataset
from vlrl.run_file import load_config, parse_config

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def command(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def write_set(folder: Path, question: str, num: int = 5) -> Path:
    rows = [NewRow(question=f"{question} {number}?", answer=str(number)) for number in range(num)]
    return write_dataset(folder, rows, source="made here", licence="none", recipe="test", recipe_version=1).folder


def test_a_tiny_model_s_tokenizer_learns_only_the_named_texts_and_the_command_prints_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vlrl.models.tiny.build_tiny", lambda folder, texts, **_: len("".join(texts)))
    sums, other = write_set(Path("data/sums/train"), "How much is"), write_set(Path("data/other/train"), "Whatever is the number")
    code, printed = command("tiny", "model", "--texts", sums)
    assert (code, printed) == (0, "model: 0.00 M parameters; its tokenizer learned from data/sums/train\n")
    assert f"learned from {other}, {sums}\n" in command("tiny", "model")[1]
    assert "did you mean data/sums/train?" in command("tiny", "model", "--texts", "data/sum/train")[1].replace("\n", "")


@pytest.mark.parametrize(
    ("family", "tiny", "train"),
    [
        ((), ["models/tiny"], []),
        (
            ("FAMILY=qwen2_5_vl",),
            ["models/tiny-qwen2_5_vl", "--family", "qwen2_5_vl"],
            ["model=models/tiny-qwen2_5_vl", "name=cpu-qwen2_5_vl"],
        ),
    ],
    ids=["usual", "another family"],
)
def test_make_train_makes_the_family_s_tiny_model_from_the_laptop_run_s_data_sets_and_trains_it(family, tiny, train):
    planned = subprocess.run(["make", "-n", "-B", "train", *family], cwd=ROOT, capture_output=True, text=True).stdout
    made, trained = ([line.split()[2:] for line in planned.splitlines() if f"vlrl {name} " in line] for name in ("tiny", "train"))
    tasks = ["chain_sum", "counting", "digits", "functions", "knights"]
    assert made == [[*tiny, *(word for task in tasks for word in ("--texts", f"data/{task}/train"))]]
    assert trained == [["configs/cpu.yaml", *train]]


SHORT = ("data", "show", "{rows}", "--num", 1)
LONG = ("data", "show", "{rows}", "--num", 2000)


@pytest.mark.parametrize(
    "arguments", [SHORT, LONG, ("doctor",), ("plan", "run.yaml", "--all")], ids=["short", "long", "doctor", "plan"]
)
def test_a_command_whose_reader_has_gone_prints_nothing_and_exits_with_141(tmp_path, arguments):
    rows = write_set(tmp_path / "rows", "How much is", 2000)
    (tmp_path / "run.yaml").write_text(
        "name: run\nmodel: none\nsteps: 3\nprompts_per_step: 2\nmixture: {sums: {weight: 1, rows: rows}}\n"
    )
    words = [str(word).format(rows=rows) for word in arguments]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "vlrl.cli", *words],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_plan_prints_the_plan_and_then_the_settings_that_differ_from_their_defaults(tmp_path):
    rows = write_set(tmp_path / "rows", "How much is")
    run = tmp_path / "run.yaml"
    run.write_text(f"name: run\nmodel: none\nsteps: 3\nprompts_per_step: 2\nmixture: {{sums: {{weight: 1, rows: {rows}}}}}\n")
    code, printed = command("plan", run, "policy.lr=1e-5", "--steps", 1)
    assert code == 0, printed
    drawn, settings = printed.split("\n\nSettings that differ from their defaults (all: --all):\n\n")
    assert drawn.splitlines()[0].startswith("step 1: sums 2") and "epochs of 5 rows" in drawn
    assert parse_config(yaml.safe_load(settings), "here") == load_config(run, ("policy.lr=1e-5",))
    assert "lr: 1.0e-05" in settings and len(settings.splitlines()) < 12
    assert "zero_stage" in command("plan", run, "--all")[1]


def test_missing_folders_are_refused_before_any_slow_import(tmp_path):
    (tmp_path / "runs/cpu").mkdir(parents=True)
    (tmp_path / "runs/cpu/config.yaml").touch()
    code = (
        "import sys\nfrom vlrl.cli.main import app\n"
        "for command in (['compare', 'one', 'two'], ['report', 'runs/cpuu']):\n"
        "    try:\n        app(command)\n    except SystemExit as end:\n        assert end.code == 2\n"
        "sys.exit(', '.join({'torch', 'transformers', 'vllm', 'scipy', 'plotly'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert "there is no folder one" in done.stderr
    assert "runs/cpuu does not exist; did you mean runs/cpu? " in done.stderr

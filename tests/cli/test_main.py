"""What all commands share, and the commands that only call one function of the library."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import vlrl
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
    monkeypatch.setattr(
        "vlrl.models.tiny.build_tiny", lambda folder, texts, **_: folder.mkdir(exist_ok=True) or len("".join(texts))
    )
    sums, other = write_set(Path("data/sums/train"), "How much is"), write_set(Path("data/other/train"), "Whatever is the number")
    code, printed = command("tiny", "model", "--texts", sums)
    assert (code, printed) == (0, "model: 0.00 M parameters; its tokenizer learned from data/sums/train\n")
    assert f"learned from {other}, {sums}\n" in command("tiny", "model")[1]
    assert "did you mean data/sums/train?" in command("tiny", "model", "--texts", "data/sum/train")[1].replace("\n", "")


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ((), {"name": "cpu", "model": "models/tiny", "of": "qwen3_vl"}),
        (("FAMILY=qwen2_5_vl",), {"name": "cpu-qwen2_5_vl", "model": "models/tiny-qwen2_5_vl", "of": "qwen2_5_vl"}),
    ],
    ids=["usual", "another family"],
)
def test_make_train_trains_a_tiny_model_of_the_family(family, settings):
    planned = subprocess.run(["make", "-n", "-B", "train", *family], cwd=ROOT, capture_output=True, text=True).stdout
    (words,) = (line.split()[2:] for line in planned.splitlines() if "vlrl train " in line)
    config = load_config(ROOT / words[0], tuple(words[1:]))
    of = config.build.tiny_models[config.model]
    assert {"name": config.name, "model": config.model, "of": of} == settings


@pytest.mark.parametrize("arguments", ["--help", "--version"])
def test_help_and_versions_are_printed_without_torch(arguments):
    code = (
        "import sys\nfrom vlrl.cli.main import app\n"
        f"try: app(['{arguments}'])\nexcept SystemExit as end: assert not end.code\n"
        "print({'torch', 'transformers', 'vllm', 'deepspeed', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.endswith("\nset()\n"), done.stderr


def test_the_version_is_the_package_s_with_those_of_its_parts():
    code, printed = command("--version")
    found = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert (code, found["vlrl"], found["deepspeed"]) == (0, vlrl.__version__, version("deepspeed"))
    assert found.keys() == {"vlrl", "torch", "transformers", "vllm", "deepspeed", "peft"}


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

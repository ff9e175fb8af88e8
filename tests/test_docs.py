"""Runs the documents' commands and files in order, in a folder like a clone after `make train`."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from docs_site.links import PAGES, targets
from vlrl.common.task_settings import RewardConfig
from vlrl.config import Config
from vlrl.tasks import check_examples, load_task
from vlrl.types import Row

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"(^```\w+\n[\s\S]*?^```$)", re.MULTILINE)
FENCED = re.compile(r"```(?P<kind>\w+)\n(?P<text>[\s\S]*)```")
INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
LONG = ("vlrl train", "vlrl report")
pytestmark = pytest.mark.timeout(900)
SHORT_RUN = "steps=2 prompts_per_step=4 sampling.group_size=2 coldstart.steps=2 coldstart.batch_size=8 evaluation.rows=2"


@dataclass(frozen=True)
class Block:
    """A block of a document. kind: its fence's language, or "sh" for an indented block; file: the last .py named before it."""

    kind: str
    text: str
    file: str = ""


def blocks(document: str) -> list[Block]:
    """The document's fenced blocks, and its indented blocks as "sh"."""
    found, before = [], ""
    for piece in FENCE.split(document):
        if fenced := FENCED.fullmatch(piece):
            named = re.findall(r"`([\w/]+\.py)`", before)
            found.append(Block(fenced["kind"], fenced["text"], named[-1] if named else ""))
        else:
            found += [Block("sh", re.sub(r"^    ", "", text, flags=re.MULTILINE)) for text in INDENTED.findall(piece)]
        before += piece
    return found


OWN_TASK = blocks((ROOT / "docs/own-task.md").read_text())


@pytest.fixture(scope="module")
def clone(tmp_path_factory, tiny_dense) -> Path:
    """A folder with the project's tasks, recipes and configs, the environment's commands, a small data set and a tiny model."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("tasks", "data_recipes", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv/bin").mkdir(parents=True)
    for name, arguments in {"vlrl": "-m vlrl.cli", "python": ""}.items():
        (folder / ".venv/bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (folder / ".venv/bin" / name).chmod(0o755)
    (folder / "runs/cpu").mkdir(parents=True)
    (folder / "runs/cpu/model").symlink_to(tiny_dense)
    run(folder, "vlrl data build data_recipes/counting.py --out data/counting --train 16 --eval 4")
    return folder


def run(folder: Path, script: str) -> str:
    """Runs the script in a shell that stops at the first failing command, and returns what it prints."""
    environment = os.environ | {"PATH": f"{folder}/.venv/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-e", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def without_long(script: str) -> str:
    return "".join(line for line in script.splitlines(keepends=True) if not line.startswith(LONG))


@pytest.fixture(scope="module")
def followed(clone) -> tuple[Path, str]:
    """The clone after all of own-task.md except the run, and what was printed.

    A Python block is the content of the file named before it: `vlrl new` has written this file, or the fixture writes it.
    """
    printed = ""
    for block in OWN_TASK:
        if block.kind == "sh":
            printed += run(clone, without_long(block.text))
        elif block.kind == "python" and (path := clone / block.file).exists():
            assert path.read_text() == block.text, f"vlrl new writes another {block.file}"
        elif block.kind == "python":
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)
    return clone, printed


@pytest.mark.slow
def test_every_command_of_own_task_runs_in_order(followed):
    _, printed = followed
    assert "data/dots/eval: 40 rows, 40 images" in printed
    assert "its own answer '\\\\boxed{" in printed and "<image: runs/try/dots-" in printed
    assert "0 of 3 disagree" in printed
    assert "dots" in printed and "counting" in printed
    assert "data/capitals/train: 4 rows, 0 images" in printed
    assert "control character" not in printed


@pytest.mark.slow
def test_the_run_of_own_task_trains_and_reports(followed):
    clone, _ = followed
    long = [line for block in OWN_TASK if block.kind == "sh" for line in block.text.splitlines() if line.startswith(LONG)]
    assert [line.split()[1] for line in long] == ["train", "report"]
    printed = run(clone, f"{long[0]} {SHORT_RUN}\n{long[1]}")
    assert "dots" in printed
    assert (clone / "runs/dots/report.html").exists()


def test_the_reward_of_own_task_is_valid_in_a_run_file():
    parts = [yaml.safe_load(block.text) for block in OWN_TASK if block.kind == "yaml"]
    (reward,) = (RewardConfig(**part["reward"]) for part in parts if "reward" in part)
    assert (reward.required_part, sum(reward.weights.values())) == ("boxed", 1.0)


def test_the_run_of_own_task_may_begin_from_a_tiny_model_of_its_own():
    (run_file,) = (block.text for block in OWN_TASK if "name: dots" in block.text)
    settings = yaml.safe_load(run_file.split("END'\n")[1].split("END\n")[0])
    (start,) = (yaml.safe_load(block.text) for block in OWN_TASK if block.kind == "yaml" and "build:" in block.text)
    config = Config.model_validate(settings | start)
    assert config.model in config.build.tiny_models and "data/counting" in config.build.data


def test_the_readme_s_task_does_what_its_examples_say(tmp_path):
    code = next(block for block in blocks((ROOT / "README.md").read_text()) if block.kind == "python")
    (tmp_path / "flag.py").write_text(code.text)
    task = load_task("flag", [tmp_path])
    assert check_examples(task) == []
    (message,) = task.prompt(Row(question="Of which country is this flag?", images=("flag.png",)))
    assert [part["type"] for part in message["content"]] == ["image", "text"]


def test_every_file_that_a_document_links_to_is_there():
    documents = [*PAGES, *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
    linked = {target for name in documents for target in targets(name, (ROOT / name).read_text())}
    assert {"docs/data.md", "configs/qwen3vl_235b_a22b.yaml", "docs/images/report-reward.png"} <= linked
    with pytest.raises(ValueError, match=r"docs/data.md links to ../gone.md, and there is no gone.md"):
        list(targets("docs/data.md", "See [this](../gone.md#part)."))


def test_every_test_that_a_document_names_is_there():
    named = {found for page in ROOT.glob("docs/*.md") for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())}
    assert len(named) > 10
    assert not [f"{file}::{name}" for file, name in sorted(named) if f"def {name}(" not in (ROOT / file).read_text()]

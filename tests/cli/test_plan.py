"""The plan of a run: quotas by task and mini-batch, and each task's share of the run."""

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlrl.cli.main import app
from vlrl.cli.plan import plan
from vlrl.data.shards import NewRow, write_dataset
from vlrl.run_file import parse_config


@pytest.fixture
def config(tmp_path):
    """3 : 1 of math and logic, 10 prompts a step in two mini-batches, 4 steps; no model anywhere."""
    for name, count in (("math", 40), ("logic", 20)):
        rows = [NewRow(question=f"{name} {number}", answer="1") for number in range(count)]
        write_dataset(tmp_path / name, rows, source="test", licence="none", recipe=name, recipe_version=1)
    mixture = {name: {"weight": weight, "rows": Path(tmp_path / name)} for name, weight in (("math", 3), ("logic", 1))}
    return parse_config({"name": "run", "model": "none", "steps": 4, "prompts_per_step": 10, "mixture": mixture}, "run.yaml")


def test_each_step_shows_its_quotas_and_their_mini_batches(config):
    lines = list(plan(config, 2))
    assert lines[0] == "step 1: math 8 (4+4) logic 2 (1+1)"
    for step, line in enumerate(lines[:2], start=1):
        parts = re.findall(r"(\d+) \((\d+)\+(\d+)\)", line)
        assert line.startswith(f"step {step}: ")
        assert sum(int(total) for total, _, _ in parts) == 10
        assert all(int(total) == int(first) + int(second) for total, first, second in parts)
        assert [sum(int(part[n]) for part in parts) for n in (1, 2)] == [5, 5]


def test_the_totals_are_those_of_the_whole_run(config):
    assert list(plan(config, 2))[2:] == [
        "math: 30 prompts in 4 steps, 30.0 asked for; 0.75 epochs of 40 rows",
        "logic: 10 prompts in 4 steps, 10.0 asked for; 0.50 epochs of 20 rows",
    ]


def test_no_step_past_the_last_is_shown(config):
    assert sum(line.startswith("step ") for line in plan(config, 100)) == 4


@pytest.mark.slow
def test_every_data_set_that_is_missing_is_named_the_held_out_ones_too(config):
    math, logic = config.mixture["math"], config.mixture["logic"]
    mixture = {
        "math": math.model_copy(update={"eval_rows": Path("nowhere/eval")}),
        "logic": logic.model_copy(update={"rows": Path("nowhere/train")}),
    }
    with pytest.raises(ValueError, match=r"(?s)nowhere/train.*\n.*nowhere/eval"):
        list(plan(config.model_copy(update={"mixture": mixture}), 2))


def test_memory_is_planned_without_weights(tmp_path, tiny_dense):
    (tmp_path / "model").mkdir()
    shutil.copy(Path(tiny_dense) / "config.json", tmp_path / "model")
    asked = ["configs/cpu.yaml", f"model={tmp_path}/model", "--memory", "--gpus-per-host", "8", "--hosts", "2", "--gpu-gb", "80"]
    done = CliRunner().invoke(app, ["plan", *asked])
    assert done.exit_code == 0, done.output
    assert "16 GPUs on 2 hosts, all alike, 80.0 GiB each" in done.output and "It fits: at most" in done.output

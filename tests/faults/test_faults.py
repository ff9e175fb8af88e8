"""The fault matrix's quick cells, and the matrix itself: what it compares, where it injects, and that its document lists it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import PATIENCE_S
from tests.faults import table
from tests.faults.cells import CELLS, COLUMNS, FAULTS
from tests.faults.injection import POINTS
from tests.faults.matrix import Result, run_cell
from tests.faults.runs import STEPS, Runs, difference
from tests.loop import ROOT, Loop

QUICK = [cell for cell in CELLS if cell.fault.quick and cell.configuration == COLUMNS[0]]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Result]:
    """The quick cells' results: two cells at a time, since each waits for its processes."""
    runs = Runs(tmp_path_factory.mktemp("faults"))
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(map(str, QUICK), pool.map(lambda cell: run_cell(runs, cell), QUICK), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("cell", map(str, QUICK))
def test_a_run_that_a_fault_hits_ends_like_one_that_nothing_interrupts(results, cell):
    if results[cell].was_skipped:
        pytest.skip("needs a tmpfs, which can't be mounted here")
    assert not results[cell].fault


def made_up(tmp_path, name: str) -> Loop:
    """The folder of a finished run, with a line in each log and a few numbers as weights."""
    loop = Loop(overrides={"runs": tmp_path, "name": name})
    checkpoint = loop.folder / f"checkpoints/step-{STEPS:06d}"
    for folder in (loop.folder / "model", checkpoint / "policy"):
        folder.mkdir(parents=True)
    for file in ("metrics", "rollouts", "histograms", "tokens"):
        seconds = {"time/step": float(len(name))} if file == "metrics" else {}
        lines = [json.dumps({"step": step, "reward": 0.5} | seconds) for step in range(1, STEPS + 1)]
        (loop.folder / f"{file}.jsonl").write_text("\n".join(lines) + "\n")
    (loop.folder / "summary.json").write_text("{}")
    save_file({"weight": torch.arange(4.0)}, loop.folder / "model/model.safetensors")
    torch.save({"moments": [torch.ones(3), {"step": 7}]}, checkpoint / "policy/optim_states.pt")
    (checkpoint / "state.json").write_text(json.dumps({"name": name, "world_size": 1}))
    return loop


def flip_weight(loop: Loop) -> None:
    path = loop.folder / "model/model.safetensors"
    weight = load_file(path)["weight"]
    weight.view(torch.int32)[3] ^= 1
    save_file({"weight": weight}, path)


def change_moment(loop: Loop) -> None:
    path = next(loop.folder.rglob("*.pt"))
    torch.save({"moments": [torch.tensor([1, 1, 1 + 2**-23]), {"step": 7}]}, path)


def count_a_step_more(loop: Loop) -> None:
    path = next(loop.folder.rglob("*.pt"))
    torch.save({"moments": [torch.ones(3), {"step": 8}]}, path)


def rewrite(pattern: str, old: str, new: str):
    def change(loop: Loop) -> None:
        path = next(loop.folder.rglob(pattern))
        path.write_text(path.read_text().replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (flip_weight, "the exported model"),
        (change_moment, "moments.0"),
        (count_a_step_more, "moments.1.step"),
        (rewrite("metrics.jsonl", "0.5", "0.25"), "metrics of step 1: reward"),
        (rewrite("metrics.jsonl", '"step": 2', '"step": 1'), "metrics.jsonl has the steps [1, 1, 3]"),
        (rewrite("rollouts.jsonl", "0.5", "0.25"), "rollouts.jsonl"),
        (rewrite("summary.json", "{}", "[]"), "summary.json"),
        (rewrite("state.json", '"world_size": 1', '"world_size": 2'), "state.json"),
    ],
)
def test_two_runs_that_differ_in_one_bit_or_number_differ_and_the_place_is_named(tmp_path, change, named):
    one, other = made_up(tmp_path, "one"), made_up(tmp_path, "other")
    assert not difference(one, other)
    change(one)
    assert named in difference(one, other)


def test_every_fault_has_a_cell_of_the_first_configuration_or_needs_two_ranks():
    for fault in FAULTS:
        assert COLUMNS[0] in fault.columns or all(column.ranks == 2 for column in fault.columns), fault.name
    assert not [name for name, number in Counter(map(str, CELLS)).items() if number > 1]
    assert all(injection.rank < cell.configuration.ranks for cell in CELLS for each in cell.fault.starts for injection in each)


def ended(program: str) -> int:
    """The exit code of a Python program that has the injections' names."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    program = f"from pathlib import Path\nfrom tests.faults.injection import *\n{program}"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, timeout=PATIENCE_S).returncode


@pytest.mark.slow
def test_every_injection_has_a_point_that_the_program_has():
    used = {injection.point for fault in FAULTS for each in fault.starts for injection in each}
    assert used <= POINTS.keys()
    assert ended("for point in POINTS:\n    inject(Injection(point=point, action='kill'))") == 0


def test_an_injection_acts_at_its_call_alone_and_after_it(tmp_path):
    names = ("manifest.json", "other.json", "manifest.json")
    opens = f"for name in {names}:\n    Path({str(tmp_path)!r}, name).open('w').write('whole')"
    assert ended(f"inject(Injection(point='manifest', action='kill', call=2))\n{opens}") == -signal.SIGKILL
    assert (tmp_path / "manifest.json").read_text() == "" and (tmp_path / "other.json").read_text() == "whole"


def test_the_document_lists_every_fault():
    listed = re.findall(r"^\| (.+?) \|", (ROOT / "docs/faults.md").read_text(), re.MULTILINE)
    assert [name for name in listed if name not in ("fault",)] == [fault.name for fault in FAULTS]


def test_the_table_says_of_each_cell_how_it_ended():
    first = CELLS[0]
    row = {str(cell): Result() for cell in CELLS} | {str(first): Result(fault="not equal: rollouts.jsonl")}
    line = next(line for line in table.table(row).splitlines() if line.startswith(f"| {first.fault.name} |"))
    assert line.startswith(f"| {first.fault.name} | **fails** | –")

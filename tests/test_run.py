"""What a run is known by: when a cold start may be reused, and what a resumed run must share."""

import shutil
from pathlib import Path

import pytest

from tests.preflight import bad_input_table
from vlrl.data.shards import NewRow
from vlrl.distributed.ranks import Ranks
from vlrl.run import Run, open_run
from vlrl.run_file import load_config
from vlrl.types import Draw


@pytest.fixture
def opened(tiny_dense, tmp_path, monkeypatch):
    """A function that opens the good run of the table of bad input, with overrides."""
    monkeypatch.chdir(tmp_path)
    bad_input_table.write_good_run(Path(tiny_dense))

    def open_with(*overrides: str) -> Run:
        return open_run(load_config(Path("run.yaml"), overrides), Ranks(0, 1, 0))

    return open_with


@pytest.mark.parametrize(
    "override", ["policy.lr=1e-5", "algorithm.tau_neg=1.2", "steps=7", "evaluation.rows=3", "policy.zero_stage=1"]
)
def test_what_comes_after_a_cold_start_leaves_its_origin_as_it_is(opened, override):
    assert opened(override).origin == opened().origin


@pytest.mark.parametrize("override", ["coldstart.lr=1e-5", "seed=1", "mixture.sums.weight=3", "policy.dtype=bfloat16"])
def test_what_a_cold_start_computes_with_is_of_its_origin(opened, override):
    assert opened(override).origin != opened().origin


def test_other_rows_make_another_origin_and_identity(opened):
    before = opened()
    bad_input_table.write_rows("sums", *(NewRow(question=f"{n} + 3?", answer=str(n + 3)) for n in range(8)))
    after = opened()
    assert before.origin != after.origin
    assert {key for key in before.identity if before.identity[key] != after.identity[key]} == {"data"}
    assert {task for task in before.rows if before.identity["data"][task] != after.identity["data"][task]} == {"sums"}


def test_an_edited_verifier_and_other_weights_make_another_origin(opened):
    before = opened()
    bad_input_table.spoil_task('"three"', '"drei"')
    edited = opened()
    assert {key for key in before.identity if before.identity[key] != edited.identity[key]} == {"task_files"}
    assert before.origin != edited.origin
    weights = Path("models/tiny").resolve()
    Path("models/tiny").unlink()
    shutil.copytree(weights, "models/tiny")
    assert opened().origin == edited.origin
    path = next(Path("models/tiny").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert opened().origin != edited.origin


def test_two_data_sets_may_share_a_task_under_names_of_their_own(opened):
    run = opened("mixture.more={weight: 1, task: sums, rows: data/sums, instruction: null}")
    assert run.tasks["more"] == run.tasks["sums"]
    prompt = run.prompt(Draw(slot=0, task="more", index=0, minibatch=0), 2)
    assert (prompt.task, prompt.file) == ("more", "sums")

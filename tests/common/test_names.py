"""Which names a task may have, and that every door asks the same rule."""

import doctest
import json
from pathlib import Path

import pytest

from tests.preflight.good_run import png
from vlrl.authoring.task_tools import new_recipe, new_task
from vlrl.common import names
from vlrl.common.names import name_fault
from vlrl.data.shards import MANIFEST, Dataset, NewRow, write_dataset
from vlrl.run_file import load_config
from vlrl.tasks import load_task
from vlrl.telemetry.metrics import Key, name_of, read_key

BAD = ["mean", "minibatch_1", "minibatch_20", "a/b", "../a", "", ".", "_shared", "-a", "a b", "a.b", "a\n", "a:b", "größe", "a@2"]
GOOD = ["grid_max", "mean_of_two", "minibatch", "7", "gsm8k-hard", "class", "A"]


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(names).failed == 0


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_is_read_back_from_every_metric(name):
    assert name_fault(name) == ""
    for key in (Key("reward", name), Key("policy/entropy", name), Key("policy/entropy", name, 2), Key("parts", name, part="a")):
        assert read_key(name_of(key), [name]) == key


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_refused_by_every_command(tmp_path, name):
    fault = name_fault(name)
    assert fault.startswith("a task cannot be called") and "\n" not in fault
    (tmp_path / "rows").mkdir()
    run = {"name": "a", "model": "m", "steps": 1, "prompts_per_step": 2, "mixture": {name: {"weight": 1, "rows": "rows"}}}
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    doors = [
        lambda: load_config(tmp_path / "run.yaml"),
        lambda: new_task(name, tmp_path),
        lambda: new_recipe(name, tmp_path),
        lambda: load_task(name, [tmp_path]),
    ]
    for door in doors:
        with pytest.raises(ValueError, match="a task cannot be called"):
            door()


def rows_for(task: str, folder: Path) -> Dataset:
    rows = [NewRow(question="How many?", answer="1", images=(png(32, 32),))]
    return write_dataset(folder, rows, source="", licence="", recipe="dots", recipe_version=1, task=task)


def test_a_manifest_with_a_bad_name_is_neither_written_nor_read(tmp_path):
    with pytest.raises(ValueError, match="a task cannot be called 'a/b'"):
        rows_for("a/b", tmp_path / "bad")
    assert not (tmp_path / "bad" / MANIFEST).exists()
    manifest = rows_for("dots", tmp_path / "good").folder / MANIFEST
    manifest.write_text(manifest.read_text().replace('"task": "dots"', '"task": "mean"'))
    with pytest.raises(ValueError, match="a task cannot be called mean"):
        Dataset(tmp_path / "good")

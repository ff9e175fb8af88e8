"""A real run with all four trackers, one of which dies in the middle: the run and the other three do not notice."""

import ast
import sqlite3
import time
from collections.abc import Callable

import psutil
import pytest

from tests.conftest import PATIENCE_S
from tests.loop import Loop, Process, finished, python
from tests.trackers.test_real_trackers import in_folder

pytestmark = pytest.mark.slow
STEPS = 6
READ = {
    "trackio": (
        "import os; os.environ['TRACKIO_DIR'] = 'trackio'; import trackio\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "[run] = trackio.Api().runs('vlrl')\n"
        "logs = SQLiteStorage.get_logs('vlrl', run.name, run_id=run.id)\n"
        "print([(line['step'], line['time/step']) for line in logs if 'time/step' in line])"
    ),
    "mlflow": (
        "from mlflow import MlflowClient\n"
        "client = MlflowClient(tracking_uri='sqlite:///mlflow.db')\n"
        "[run] = client.search_runs([client.get_experiment_by_name('vlrl').experiment_id])\n"
        "assert run.info.status == 'FINISHED'\n"
        "print([(each.step, each.value) for each in client.get_metric_history(run.info.run_id, 'time/step')])"
    ),
    "tensorboard": (
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "events = EventAccumulator('run/tensorboard')\n"
        "events.Reload()\n"
        "assert 'held-out accuracy/text_summary' in events.Tags()['tensors']\n"
        "print([(each.step, each.value) for each in events.Scalars('time/step')])"
    ),
    "wandb": (
        "import json\n"
        "from pathlib import Path\n"
        "from wandb.proto.wandb_internal_pb2 import Record\n"
        "[path] = Path('run/wandb').glob('offline-run-*/*.wandb')\n"
        "content, at, record, found = path.read_bytes(), 7, b'', []\n"
        "while at + 7 <= len(content):\n"  # LevelDB's log: blocks of 32 KB; parts with a checksum, their length and kind
        "    if (left := 32768 - at % 32768) < 7:\n"
        "        at += left\n"
        "        continue\n"
        "    length, kind = int.from_bytes(content[at + 4 : at + 6], 'little'), content[at + 6]\n"
        "    record += content[at + 7 : at + 7 + length]\n"
        "    at += 7 + length\n"
        "    if kind in (1, 4):\n"
        "        read, record = Record.FromString(record), b''\n"
        "        items = {'/'.join(item.nested_key) or item.key: item.value_json for item in read.history.item}\n"
        "        if 'time/step' in items:\n"
        "            found.append((int(items['_step']), json.loads(items['time/step'])))\n"
        "print(found)"
    ),
}
"""Programs that print the seconds of each step as a tracker kept them, by its own library; of wandb by its records' form."""


def kill_its_process(run: Loop, process: int) -> None:
    """wandb's service, a child of the run's process."""
    (service,) = (each for each in psutil.Process(process).children(recursive=True) if each.name() == "wandb-core")
    service.kill()


def remove_its_table(run: Loop, process: int) -> None:
    """MLflow's metrics, from its database, by another program that has it open."""
    with sqlite3.connect(run.folder.parent / "mlflow.db", timeout=PATIENCE_S) as database:
        database.execute("drop table metrics")


DEATHS = {"wandb": kill_its_process, "mlflow": remove_its_table}


def wait_for(ready: Callable[[], bool], process: Process) -> None:
    end = time.monotonic() + PATIENCE_S
    while not ready() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def small(tmp_path_factory, tiny_dense) -> Loop:
    """A run of two tasks, one of them with pictures, with all trackers on."""
    folder = tmp_path_factory.mktemp("rows")
    for recipe in ("chain_sum", "digits"):
        sizes = ("--train", "64", "--eval", "10")
        finished(python("-m", "vlrl.cli", "data", "build", f"data_recipes/{recipe}.py", "--out", folder / recipe, *sizes))
    mixture = {
        task: {"weight": 1, "rows": folder / task / "train", "eval_rows": folder / task / "eval"}
        for task in ("chain_sum", "digits")
    }
    settings = {"model": tiny_dense, "mixture": mixture, "steps": STEPS, "prompts_per_step": 8, "sampling.group_size": 4}
    settings |= {"sampling.max_new_tokens": 24}
    settings |= {"coldstart.steps": 5, "coldstart.batch_size": 8, "evaluation.rows": 10}
    settings |= {name: {"tables_every": 2} for name in ("wandb", "tensorboard", "trackio", "mlflow")}
    return Loop(overrides=settings)


@pytest.mark.parametrize("dead", DEATHS)
def test_a_tracker_that_dies_in_the_middle_of_a_run_takes_nothing_with_it(tmp_path, small, dead):
    run = small.with_(name="run", runs=tmp_path)
    process = run.start()
    wait_for(lambda: len(run.metrics) >= 2, process)
    if process.poll() is None:
        DEATHS[dead](run, process.pid)
    printed = finished(process)
    rewards = [(line["step"], line["time/step"]) for line in run.metrics]
    assert [step for step, _ in rewards] == list(range(1, STEPS + 1)) and run.summary["steps"] == STEPS
    assert printed.count("failed and is off for the rest of the run") == printed.count(f"{dead} failed and is off") == 1
    for name in READ.keys() - {dead}:
        found = ast.literal_eval(in_folder(tmp_path, READ[name]).stdout)
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in rewards], name

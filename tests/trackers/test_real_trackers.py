"""Each tracker's files are read back by its own library; all of them at once in one log."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import PATIENCE_S
from vlrl.trackers.tensorboard_tracker import TensorboardTracker

ROOT = Path(__file__).parents[2]
_WRITE = """
import sys
from pathlib import Path
from tests.telemetry.made_up import group
from tests.trackers.made_up import run_of
from vlrl.telemetry.metrics import step_metrics
from vlrl.telemetry.run_log import RunLog, rollout_lines
from vlrl.trackers.start import open_trackers

log = RunLog(Path("runs/toy"), open_trackers(run_of(sys.argv[1:])))
for step in (1, 2):
    log.rollouts(step, list(rollout_lines(step, group(image="picture.png", box=[6, 6, 32, 24]))))
    log.step(step, step_metrics({"reward/a": step / 4, "loss": float("nan")}))
task = {"before": 0.1, "before_interval": 0.1, "after": 0.2, "after_interval": 0.1, "rows": 4}
log.summary({"best": 1, "tasks": {"digits": task}})
log.close()
"""
_ALL = ("wandb", "tensorboard", "trackio", "mlflow")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder in which one log was written with all trackers on. Nothing is printed, and nothing kept in the home folder."""
    folder = tmp_path_factory.mktemp("trackers")
    Image.new("RGB", (64, 48), "red").save(folder / "picture.png")
    done = in_folder(folder, _WRITE, *_ALL)
    assert "failed" not in done.stderr, done.stderr
    return folder


def in_folder(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "TRACKIO_", "MLFLOW_"))}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = kept | {"HOME": str(home), "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.slow
def test_tensorboard_reads_scalars_text_and_pictures(written):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(written / "runs/toy/tensorboard"))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("reward/a")] == [(1, 0.25), (2, 0.5)]
    assert [each.step for each in events.Images("rollouts/digits")] == [2]
    text = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert "\\boxed{4}" in text["rollouts/digits/text_summary"] and "digits | 0.1" in text["held-out accuracy/text_summary"]


def test_tensorboard_shows_a_repeated_step_once_and_keeps_all_if_a_run_that_resumes_has_none_left(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in ((1, 2, 3), (3, 4), ()):
        tracker = TensorboardTracker(tmp_path, config={})
        for step in steps:
            tracker.step(step, {"reward": step + len(steps) / 10})
        tracker.summary({"tasks": {}})
        tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(each.step, round(each.value, 1)) for each in events.Scalars("reward")] == [(1, 1.3), (2, 2.3), (3, 3.2), (4, 4.2)]


@pytest.mark.slow
def test_trackio_reads_metrics_and_tables(written):
    printed = in_folder(
        written,
        "import os; os.environ['TRACKIO_DIR'] = 'runs/trackio'; import trackio\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "[run] = trackio.Api().runs('vlrl')\n"
        "logs = SQLiteStorage.get_logs('vlrl', run.name, run_id=run.id)\n"
        "print(run.name, [(line['step'], line['reward/a']) for line in logs if 'reward/a' in line])",
    ).stdout
    assert printed == "toy [(1, 0.25), (2, 0.5)]\n"
    assert list((written / "runs/trackio/media").rglob("*.png"))


@pytest.mark.slow
def test_mlflow_reads_metrics_parameters_and_artifacts(written):
    printed = in_folder(
        written,
        "from mlflow import MlflowClient\n"
        "client = MlflowClient(tracking_uri='sqlite:///runs/mlflow.db')\n"
        "[run] = client.search_runs([client.get_experiment_by_name('vlrl').experiment_id])\n"
        "print(run.info.run_name, run.info.status, run.data.params['sampling.group_size'])\n"
        "print([(each.step, each.value) for each in client.get_metric_history(run.info.run_id, 'reward/a')])\n"
        "print(sorted(each.path for each in client.list_artifacts(run.info.run_id, 'rollouts')))",
    ).stdout.splitlines()
    assert printed[0] == "toy FINISHED 8"
    assert printed[1] == "[(1, 0.25), (2, 0.5)]"
    assert printed[2] == "['rollouts/step-000002-digits.png', 'rollouts/step-000002.md']"


@pytest.mark.slow
def test_wandb_has_its_files(written):
    assert list((written / "runs/toy/wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.slow
def test_nothing_is_kept_in_the_home_folder(written):
    assert not [path for path in (written / "home").rglob("*") if path.is_file()]

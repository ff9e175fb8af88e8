"""wandb in any state of health leaves the run alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.telemetry.made_up import run_log, strict_lines
from vlrl.telemetry.metrics import step_metrics
from vlrl.telemetry.run_log import RunLog


class ToyWandb:
    """wandb as far as the log uses it, raising at one place; it counts the calls that got through."""

    url = "https://wandb.example/run"

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.calls: list[str] = []
        self.summary = SimpleNamespace(update=lambda values: self.called("summary"))

    def called(self, place: str):
        if place == self.broken:
            raise RuntimeError(f"no {place} today")
        self.calls.append(place)
        return self

    def Settings(self, **settings):  # noqa: N802
        return settings

    def init(self, **settings):
        return self.called("init")

    def log(self, metrics, step):
        self.called(f"log {step}")

    def finish(self):
        self.called("finish")


@pytest.fixture
def toy_wandb(monkeypatch):
    def install(broken: str = "") -> ToyWandb:
        toy = ToyWandb(broken)
        monkeypatch.setitem(sys.modules, "wandb", toy)
        return toy

    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ERROR_REPORTING", "WANDB_SILENT"):
        monkeypatch.setenv(name, "")  # remembered, so that what the log sets ends with the test
        monkeypatch.delenv(name)
    return install


def three_steps(log: RunLog) -> None:
    for step in (1, 2, 3):
        log.step(step, step_metrics({"a": step}))
    log.summary({"steps": 3})
    log.close()


def test_wandb_gets_what_the_files_get(tmp_path, toy_wandb):
    toy = toy_wandb()
    three_steps(run_log(tmp_path, wandb="offline"))
    assert toy.calls == ["init", "log 1", "log 2", "log 3", "summary", "finish"]


def test_the_run_s_page_at_wandb_is_told(tmp_path, toy_wandb, capsys):
    toy_wandb()
    run_log(tmp_path, wandb="online").close()
    assert "wandb: https://wandb.example/run" in capsys.readouterr().out


def test_wandb_is_told_to_report_no_errors_home_unless_the_user_asked(tmp_path, toy_wandb, monkeypatch):
    toy_wandb()
    run_log(tmp_path, wandb="offline").close()
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    run_log(tmp_path, wandb="offline").close()
    assert os.environ["WANDB_ERROR_REPORTING"] == "true"


@pytest.mark.parametrize(
    ("broken", "before"),
    [("init", 0), ("log 1", 1), ("log 2", 2), ("summary", 4), ("finish", 5)],
)
def test_wandb_that_fails_is_off_after_one_warning_and_the_run_goes_on(tmp_path, toy_wandb, caplog, broken, before):
    toy = toy_wandb(broken)
    three_steps(run_log(tmp_path, wandb="online"))
    assert len(toy.calls) == before
    assert caplog.messages == [f"wandb failed and is off for the rest of the run (RuntimeError: no {broken} today)"]
    assert len(strict_lines(tmp_path / "metrics.jsonl")) == 3


def test_wandb_that_is_not_installed_is_off_after_one_warning(tmp_path, toy_wandb, monkeypatch, caplog):
    toy_wandb()
    monkeypatch.setitem(sys.modules, "wandb", None)
    three_steps(run_log(tmp_path, wandb="offline"))
    assert len(caplog.messages) == 1


def test_a_tracker_that_is_off_is_not_imported_and_torch_never_is():
    code = (
        "import sys; from tests.trackers.made_up import run_of; from vlrl.trackers.start import open_trackers; "
        "assert not open_trackers(run_of([])); "
        "assert not {'wandb', 'tensorboard', 'trackio', 'mlflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_real_wandb_offline_is_silent_and_keeps_its_files_in_the_run_folder(tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 48), "red").save(picture)
    code = f"""
import functools, pathlib
from tests.telemetry.test_run_log import group
from vlrl.config import WandbConfig
from vlrl.telemetry.metrics import step_metrics
from vlrl.telemetry.run_log import RunLog, rollout_lines
from vlrl.trackers.background import Background
from vlrl.trackers.wandb_tracker import WandbTracker

folder = pathlib.Path("run")
start = functools.partial(WandbTracker, WandbConfig(), folder, name="toy", config={{"steps": 1}})
log = RunLog(folder, [Background("wandb", start, tables_every=1)])
log.step(1, step_metrics({{"reward/a": float("nan")}}))
log.rollouts(1, list(rollout_lines(1, group(image={str(picture)!r}, box=[6, 6, 32, 24]))))
task = {{"before": 0.1, "before_interval": 0.1, "after": 0.2, "after_interval": 0.1, "rows": 4}}
log.summary({{"best": 1, "tasks": {{"digits": task}}}})
log.close()
"""
    (tmp_path / "home").mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment = clean | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    [media] = (tmp_path / "run" / "wandb").glob("offline-run-*/files/media")
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    [rollouts] = media.glob("table/rollouts*.json")
    table = json.loads(rollouts.read_text())
    assert [row[table["columns"].index("response")] for row in table["data"]] == ["\\boxed{4}"] * 2
    assert list(media.glob("table/held-out*.json"))
    kept = [path.read_bytes() for path in (tmp_path / "run" / "wandb" / "data").rglob("*") if path.is_file()]
    assert any(content.startswith(b"\x89PNG") for content in kept) and any(b"class_set" in content for content in kept)
    assert not list((tmp_path / "home").iterdir())

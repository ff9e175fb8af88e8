"""A run's files are strict and can be cut back; wandb in any state of health leaves the run alone."""

import csv
import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlrl.common.jsonl import read_jsonl
from vlrl.config import WandbConfig
from vlrl.telemetry import run_log as run_log_module
from vlrl.telemetry.metrics import step_metrics
from vlrl.telemetry.progress import progress
from vlrl.telemetry.run_log import RunLog, rollout_lines
from vlrl.telemetry.wandb_tracker import WandbTracker
from vlrl.types import Group, Prompt, Rollout, Row, Sample, Score, Status


def run_log(folder: Path, wandb: str = "disabled") -> RunLog:
    settings = WandbConfig(mode=wandb, tables_every=2)
    return RunLog(folder, [WandbTracker(settings, folder, name="toy", config={"steps": 3})])


def strict_lines(path: Path) -> list[dict]:
    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def group(reward: float = 1.0, text: str = "\\boxed{4}", image: str = "shard.tar#512+99", box: Sequence[int] = ()) -> Group:
    content = [{"type": "image", "image": image}]
    meta = {"width": 64, "height": 48, "boxes": [list(box)]} if box else {}
    prompt = Prompt(slot=3, task="digits", row=Row(key="r7", meta=meta), messages=({"role": "user", "content": content},))
    rollout = Rollout(slot=3, sample=0, tokens=(5, 6), logprobs=(-0.1, -0.2), text=text, finish_reason="stop", weight_version=1)
    right, late = Score(reward=reward, parts={"boxed": 1.0}), Score(reward=0.0, status=Status.TIMEOUT, detail="10 s")
    samples = (Sample(rollout=rollout, score=right, reward=reward, advantage=0.5), Sample(rollout=rollout, score=late))
    return Group(prompt=prompt, samples=samples)


def test_a_step_is_one_line_of_the_file(tmp_path):
    run_log(tmp_path).step(12, step_metrics({"reward/digits": 0.25, "policy/loss": -0.1, "time/step": 2.5}))
    assert strict_lines(tmp_path / "metrics.jsonl") == [
        {"step": 12, "reward/digits": 0.25, "policy/loss": -0.1, "time/step": 2.5}
    ]


def test_numbers_that_are_not_finite_are_strict_json_and_read_back(tmp_path):
    run_log(tmp_path).step(1, step_metrics({"a": math.nan, "b": math.inf, "c": -math.inf}))
    [line] = strict_lines(tmp_path / "metrics.jsonl")
    assert math.isnan(float(line["a"])) and float(line["b"]) == math.inf and float(line["c"]) == -math.inf


def test_each_rollout_is_a_line_with_its_images_by_reference(tmp_path):
    run_log(tmp_path).rollouts(4, list(rollout_lines(4, group())))
    first, second = strict_lines(tmp_path / "rollouts.jsonl")
    assert first == {
        "step": 4,
        "task": "digits",
        "slot": 3,
        "round": 0,
        "sample": 0,
        "row": "r7",
        "messages": [{"role": "user", "content": [{"type": "image", "image": "shard.tar#512+99"}]}],
        "answer": "",
        "boxes": {},
        "response": "\\boxed{4}",
        "finish_reason": "stop",
        "num_tokens": 2,
        "reward": 1.0,
        "verifier_reward": 1.0,
        "parts": {"boxed": 1.0},
        "status": "ok",
        "detail": "",
        "advantage": 0.5,
    }
    assert (second["status"], second["detail"]) == ("timeout", "10 s")


@pytest.mark.parametrize("text", ["a\u2028b\nc\r\nd", "\ud800 half a pair", "\x00\x1b[31m", "数学"])
def test_any_response_text_stays_on_one_line_and_reads_back(tmp_path, text):
    run_log(tmp_path).rollouts(1, list(rollout_lines(1, group(reward=math.nan, text=text))))
    assert [line["response"] for line in strict_lines(tmp_path / "rollouts.jsonl")] == [text, text]


def test_a_resumed_run_cuts_both_files_back_to_its_checkpoint(tmp_path):
    log = run_log(tmp_path)
    for step in (1, 2, 3):
        log.step(step, step_metrics({"a": step}))
        log.rollouts(step, list(rollout_lines(step, group())))
    run_log(tmp_path).truncate(2)
    assert [line["step"] for line in strict_lines(tmp_path / "metrics.jsonl")] == [1, 2]
    assert [line["step"] for line in strict_lines(tmp_path / "rollouts.jsonl")] == [1, 1, 2, 2]
    log.step(3, step_metrics({"a": 30}))
    assert [line["a"] for line in strict_lines(tmp_path / "metrics.jsonl")] == [1, 2, 30]


@pytest.mark.parametrize("tail", [b'{"step": 2, "a', b'{"step": 2, "a": 1}', b"\x00\x00\x00\n", b'"\xff\xfe', b"2"])
def test_a_torn_last_line_is_cut_off(tmp_path, tail):
    run_log(tmp_path).step(1, step_metrics({"a": 1.0}))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    run_log(tmp_path).truncate(5)
    assert strict_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "a": 1.0}]


@pytest.mark.parametrize(("call", "left"), [("truncate", [1, 2]), ("fsync", [1])])
def test_a_crash_while_cutting_back_leaves_the_file_as_it_was_or_cut_and_the_next_cut_ends_it(tmp_path, monkeypatch, call, left):
    log = run_log(tmp_path)
    for step in (1, 2):
        log.step(step, step_metrics({"a": step}))
        log.rollouts(step, list(rollout_lines(step, group())))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(os, call, lambda *_: 1 / 0)
        log.truncate(1)
    assert [line["step"] for line in strict_lines(tmp_path / "metrics.jsonl")] == left
    assert [line["step"] for line in strict_lines(tmp_path / "rollouts.jsonl")] == [1, 1, 2, 2]
    log.truncate(1)
    assert [line["step"] for line in strict_lines(tmp_path / "rollouts.jsonl")] == [1, 1]


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=40)), max_size=12), st.integers(0, 30), st.integers(0, 60))
def test_a_cut_at_any_step_and_after_any_torn_end_leaves_the_lines_up_to_it(lines, step, torn):
    with TemporaryDirectory() as name:
        log, at = RunLog(Path(name)), 1
        for further, text in lines:
            at += further
            log.tokens(at, [{"slot": 0, "pieces": [text]}])
        path = Path(name, "tokens.jsonl")
        written = path.read_bytes() if lines else b""
        path.write_bytes(written[: len(written) - min(torn, len(written))])
        expected = [line for line in read_jsonl(path) if line["step"] <= step]
        log.set_aside(step, Path(name, "left"))
        aside = [line for line in read_jsonl(path) if line["step"] > step]
        assert list(read_jsonl(Path(name, "left", "tokens.jsonl"))) == aside
        log.truncate(step)
        assert strict_lines(path) == expected


def test_a_cut_reads_what_it_cuts_and_no_more(tmp_path, monkeypatch):
    log = run_log(tmp_path)
    for step in range(100):
        log.step(step, step_metrics({"a": step}))
    parsed = []
    monkeypatch.setattr(run_log_module.json, "loads", lambda line, loads=json.loads: parsed.append(line) or loads(line))
    log.truncate(97)
    assert len(parsed) == 3


def test_the_summary_is_written_anew(tmp_path):
    log = run_log(tmp_path)
    log.summary({"best": {"digits": math.nan}})
    log.summary({"best": {"digits": 0.5}})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"best": {"digits": 0.5}}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, Linux's disk without room")
@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts.jsonl"])
def test_a_full_disk_is_an_error_with_a_sentence(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/full")
    log = run_log(tmp_path)
    with pytest.raises(OSError, match=rf"cannot write .*{name}: {os.strerror(errno.ENOSPC)}; make room"):
        log.step(1, step_metrics({"a": 1.0}))
        log.rollouts(1, list(rollout_lines(1, group())))


class CsvTracker:
    """A tracker that writes tables: metrics and rollouts, in a folder of its own for each copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.copies = 0
        self.restart()

    def restart(self) -> None:
        self.copies += 1
        self.copy = self.folder / str(self.copies)
        self.copy.mkdir(parents=True)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write("metrics", ([step, name, value] for name, value in metrics.items()))

    def rollouts(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        self._write("rollouts", ([step, line["task"], line["response"], line["reward"]] for line in lines))

    def summary(self, values: Mapping[str, Any]) -> None:
        self._write("summary", values.items())

    def close(self) -> None:
        self._write("closed", [])

    def _write(self, name: str, rows: Iterable[Iterable[Any]]) -> None:
        with (self.copy / f"{name}.csv").open("a", newline="") as file:
            csv.writer(file).writerows(rows)


def test_every_tracker_gets_what_the_files_get_and_another_copy_after_a_rollback(tmp_path):
    trackers = [CsvTracker(tmp_path / name) for name in ("a", "b")]
    log = RunLog(tmp_path / "run", trackers)
    log.step(1, step_metrics({"reward/digits": 0.25, "time/step": 2.5}))
    log.rollouts(1, list(rollout_lines(1, group())))
    log.begin_another_copy()
    log.step(1, step_metrics({"reward/digits": 0.5}))
    log.summary({"steps": 1})
    log.close()
    for tracker in trackers:
        tables = {path.relative_to(tracker.folder).as_posix(): path.read_text().split() for path in tracker.folder.rglob("*.csv")}
        assert tables == {
            "1/metrics.csv": ["1,reward/digits,0.25", "1,time/step,2.5"],
            "1/rollouts.csv": ["1,digits,\\boxed{4},1.0", "1,digits,\\boxed{4},0.0"],
            "2/metrics.csv": ["1,reward/digits,0.5"],
            "2/summary.csv": ["steps,1"],
            "2/closed.csv": [],
        }
    assert [line["reward/digits"] for line in strict_lines(tmp_path / "run" / "metrics.jsonl")] == [0.25, 0.5]


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
    run_log(tmp_path, wandb="online")
    assert "wandb: https://wandb.example/run" in capsys.readouterr().out


def test_wandb_is_told_to_report_no_errors_home_unless_the_user_asked(tmp_path, toy_wandb, monkeypatch):
    toy_wandb()
    run_log(tmp_path, wandb="offline")
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    run_log(tmp_path, wandb="offline")
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


def test_a_disabled_wandb_is_not_imported_and_torch_never_is():
    code = (
        "import sys, tempfile; from pathlib import Path; from vlrl.config import WandbConfig; "
        "from vlrl.telemetry.run_log import RunLog; from vlrl.telemetry.wandb_tracker import WandbTracker; "
        "folder = Path(tempfile.gettempdir()); "
        "RunLog(folder, [WandbTracker(WandbConfig(mode='disabled'), folder, name='toy', config={})]).close(); "
        "assert not {'wandb', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_real_wandb_offline_is_silent_and_keeps_its_files_in_the_run_folder(tmp_path):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 48), "red").save(picture)
    code = f"""
import pathlib
from tests.telemetry.test_run_log import group
from vlrl.config import WandbConfig
from vlrl.telemetry.metrics import step_metrics
from vlrl.telemetry.run_log import RunLog, rollout_lines
from vlrl.telemetry.wandb_tracker import WandbTracker

folder = pathlib.Path("run")
log = RunLog(folder, [WandbTracker(WandbConfig(tables_every=1), folder, name="toy", config={{"steps": 1}})])
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


@pytest.fixture
def clock(monkeypatch):
    """The seconds that progress reads, as a list of one number to change."""
    now = [0.0]
    monkeypatch.setattr("vlrl.telemetry.progress.time.monotonic", lambda: now[0])
    return now


def lines_of_progress(capsys, clock, *, total, seconds_each, done=0):
    with progress("Training", total=total, done=done) as tick:
        for number in range(done + 1, total + 1):
            clock[0] += seconds_each
            tick(1, f"reward {number}")
    return capsys.readouterr().out.splitlines()


def test_progress_without_a_terminal_is_a_line_at_each_tenth(capsys, clock):
    lines = lines_of_progress(capsys, clock, total=40, seconds_each=30)
    assert len(lines) == 10
    assert lines[0] == "Training 4/40, 1080 s left, reward 4"
    assert lines[-1] == "Training 40/40, 0 s left, reward 40"


def test_lines_of_progress_are_ten_seconds_apart_but_for_the_last(capsys, clock):
    assert lines_of_progress(capsys, clock, total=40, seconds_each=0.1) == ["Training 40/40, 0 s left, reward 40"]
    lines = lines_of_progress(capsys, clock, total=40, seconds_each=0.7)
    assert [line.split(",")[0] for line in lines] == ["Training 15/40", "Training 30/40", "Training 40/40"]


def test_a_resumed_phase_begins_without_an_estimate_and_then_counts_what_it_measured(capsys, clock):
    lines = lines_of_progress(capsys, clock, total=40, done=20, seconds_each=30)
    assert lines[:2] == ["Training 20/40", "Training 24/40, 480 s left, reward 24"]


def test_progress_that_is_not_shown_prints_nothing(capsys):
    with progress("Training", total=2, shown=False) as tick:
        tick(2)
    assert capsys.readouterr().out == ""


def test_progress_on_a_terminal_shows_the_phase_and_the_note(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("Scoring", total=2) as tick:
        tick(note="reward 0.43")
        tick()
    out = capsys.readouterr().out
    assert "Scoring" in out and "2/2" in out

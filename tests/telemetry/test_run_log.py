"""A run's files are strict and can be cut back, and every tracker gets what they get."""

import csv
import errno
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.telemetry.made_up import group, run_log, strict_lines
from vlrl.common.jsonl import read_jsonl
from vlrl.telemetry import run_log as run_log_module
from vlrl.telemetry.metrics import step_metrics
from vlrl.telemetry.run_log import RunLog, rollout_lines


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
        "weight_versions": [[1, 2]],
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

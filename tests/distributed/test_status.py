"""`vlrl status`: whether a run goes is judged by its file's count, and a run that ended leaves its reason or nothing."""

import json
import re
import time

import pytest

from tests.conftest import PATIENCE_S
from vlrl.distributed.status import STATUS, StatusFile, own_news, shows_life, status
from vlrl.telemetry import phase


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints" / "step-000004").mkdir(parents=True)
    return tmp_path


def table():
    second = {"rank": 1, "host": "b", "pid": 7, "phase": "Training 5/9, score", "for_s": 3.0, "silent_s": 1.0}
    second["others"] = ["engine replica 0 (process 9): waiting for work"]
    return [own_news(0, "a"), second, {"rank": 2, "host": "?", "pid": "?", "silent_s": 9.0}]


def written(folder):
    until = time.monotonic() + PATIENCE_S
    while not (folder / STATUS).exists() and time.monotonic() < until:
        time.sleep(0.02)


def test_a_running_run_shows_its_step_and_what_each_rank_does(folder):
    with phase.within("Training", done=5, total=9):
        file = StatusFile(folder, table)
        written(folder)
        is_running, lines = status(folder, PATIENCE_S)
        file.end()
    assert is_running
    assert lines[0] == "Training 5/9; newest checkpoint: step 4"
    assert re.fullmatch(r"rank 0 on a \(process \d+\): Training 5/9 for \d+ s; last heard from 0 s ago", lines[1])
    assert lines[2] == "rank 1 on b (process 7): Training 5/9, score for 3 s; last heard from 1 s ago"
    assert lines[3] == "  its engine replica 0 (process 9): waiting for work"
    assert lines[4] == "rank 2 on ? (process ?): not heard from yet"


def test_a_run_that_ended_well_leaves_no_file_and_is_not_running(folder):
    file = StatusFile(folder, table)
    written(folder)
    file.end()
    assert not (folder / STATUS).exists()
    assert status(folder) == (False, [f"{folder} is not running; newest checkpoint: step 4"])


def test_a_run_that_lost_a_rank_leaves_the_reason(folder):
    StatusFile(folder, table).end("rank 1 (b) failed: the disk is full")
    assert status(folder) == (
        False,
        [f"{folder} is not running; newest checkpoint: step 4", "rank 1 (b) failed: the disk is full"],
    )


def test_a_run_that_was_killed_is_found_by_its_silence(folder):
    ranks = table()
    (folder / STATUS).write_text(json.dumps({"count": 3, "ended": "", "checkpoint": 4, "ranks": ranks}))
    is_running, lines = status(folder, patience_s=0.3)
    assert not is_running and lines[1].startswith("It ended without a word") and len(lines) == 3 + len(ranks)
    assert not shows_life(folder, patience_s=0.3)


def test_a_run_without_a_status_file_may_be_alive(folder):
    assert shows_life(folder, patience_s=0.3)


def test_a_command_that_fails_before_the_run_has_begun_leaves_no_file(tmp_path):
    file = StatusFile(tmp_path, table)
    written(tmp_path)
    file.end("the data is damaged")
    assert not list(tmp_path.iterdir())

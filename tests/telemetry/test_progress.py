"""Progress on a terminal, and as few lines in a file."""

import pytest

from vlrl.telemetry.progress import progress


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

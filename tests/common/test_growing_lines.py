"""A .jsonl file that another process writes is read on from where the last look ended."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.common.jsonl import GrowingLines


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "metrics.jsonl"


def text_of(numbers) -> str:
    return "".join(json.dumps({"step": number, "time": number / 7}) + "\n" for number in numbers)


def steps(lines: GrowingLines) -> list[int]:
    return [line["step"] for line in lines.lines()]


def test_a_file_that_is_not_there_yet_has_no_lines_and_was_not_cut(path):
    lines = GrowingLines(path)
    assert not lines.was_cut() and steps(lines) == []


@given(cuts=st.lists(st.integers(0, 400), max_size=8))
def test_every_line_is_read_once_wherever_a_write_stops(tmp_path_factory, cuts):
    path = tmp_path_factory.mktemp("growing") / "metrics.jsonl"
    text, lines, found, written = text_of(range(12)), GrowingLines(path), [], 0
    for end in [*sorted(cuts), len(text)]:
        with path.open("a") as file:
            file.write(text[written : max(written, min(end, len(text)))])
        written = max(written, min(end, len(text)))
        assert not lines.was_cut()
        found += steps(lines)
        assert len(found) == text[:written].count("\n")
    assert found == list(range(12))


def test_only_what_was_added_is_read_from_the_disk(path, monkeypatch):
    path.write_text(text_of(range(3)))
    lines = GrowingLines(path)
    assert steps(lines) == [0, 1, 2]
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("the file did not change"))
    assert not lines.was_cut() and steps(lines) == []


@pytest.mark.parametrize("after", [[0, 1], [0, 1, 5, 6, 7, 8], [], [9, 9, 9]])
def test_a_file_that_was_cut_is_read_anew_even_if_it_has_grown_again(path, after):
    path.write_text(text_of(range(4)))
    lines = GrowingLines(path)
    steps(lines)
    path.write_text(text_of(after))
    assert lines.was_cut() and steps(lines) == after
    assert not lines.was_cut()


def test_a_file_that_was_removed_was_cut_once(path):
    path.write_text(text_of(range(4)))
    lines = GrowingLines(path)
    steps(lines)
    path.unlink()
    assert lines.was_cut() and not lines.was_cut()
    path.write_text(text_of([7]))
    assert steps(lines) == [7]

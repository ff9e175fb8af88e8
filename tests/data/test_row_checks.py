"""Train and eval that belong together: replaced together or not at all, and refused where one holds rows of the other."""

import shutil
from pathlib import Path

import pytest

import vlrl.data.shards
from tests.preflight.good_run import png
from vlrl.data.row_checks import check_apart, shared_pictures, shared_rows
from vlrl.data.shards import Dataset, NewRow, write_dataset, write_datasets

ABOUT = {"source": "made here", "licence": "none", "recipe": "test", "recipe_version": 1}


def rows(*numbers: int, question: str = "How many?") -> list[NewRow]:
    return [NewRow(question=question, answer=str(n), images=(png(32 + n, 32),)) for n in numbers]


def build(out: Path, train: list[NewRow], held_out: list[NewRow]) -> tuple[Dataset, Dataset]:
    written = write_datasets({out / "train": train, out / "eval": held_out}, **ABOUT)
    return written[out / "train"], written[out / "eval"]


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def complete(out: Path) -> list[Dataset]:
    return [Dataset(path.parent) for path in sorted(out.glob("*/manifest.json"))]


def test_sets_of_one_build_are_known_as_such_and_equal_builds_are_equal(tmp_path):
    train, held_out = build(tmp_path / "one", rows(1, 2), rows(3))
    assert train.manifest.build == held_out.manifest.build != ""
    build(tmp_path / "two", rows(1, 2), rows(3))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert build(tmp_path / "three", rows(2, 1), rows(3))[1].manifest.build != held_out.manifest.build


@pytest.mark.parametrize("place", ["train", "eval"])
def test_a_build_that_fails_leaves_both_old_sets_as_they_were(tmp_path, place):
    build(tmp_path, rows(1, 2), rows(3))
    before = contents(tmp_path)
    bad = [NewRow(question="No answer, no meta")]
    with pytest.raises(ValueError, match="it cannot be verified"):
        build(tmp_path, *({"train": (bad, rows(1)), "eval": (rows(3, 1), bad)}[place]))
    assert contents(tmp_path) == before


def test_a_process_that_is_killed_while_it_replaces_sets_never_leaves_sets_of_two_builds(tmp_path, monkeypatch):
    class Killed(BaseException): ...

    calls = 0

    def counted(method):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == dies_at:
                raise Killed
            return method(*arguments, **options)

        return call

    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    seen = set()
    for attempt in range(50):
        calls, dies_at = 0, 0
        build(tmp_path, rows(1, 2), rows(3))
        calls, dies_at = 0, attempt + 1
        try:
            build(tmp_path, rows(3, 1), rows(2))
        except Killed:
            builds = {dataset.manifest.build for dataset in complete(tmp_path)}
            assert len(builds) <= 1, f"killed at move {dies_at}"
            seen.add(len(complete(tmp_path)))
        else:
            break
    assert calls >= 8 and seen == {0, 1, 2}


def test_sets_of_one_build_are_apart_without_being_read(tmp_path, monkeypatch):
    train, held_out = build(tmp_path, rows(1, 2), rows(3))
    monkeypatch.setattr(vlrl.data.shards.Dataset, "__getitem__", lambda *_: pytest.fail("was read"))
    check_apart(train, held_out)


def test_train_and_eval_of_different_builds_in_one_folder_are_refused(tmp_path):
    train, _ = build(tmp_path / "old", rows(1, 2), rows(3))
    _, held_out = build(tmp_path / "new", rows(4), rows(5))
    (tmp_path / "new/train").rename(tmp_path / "new/elsewhere")
    train.folder.rename(tmp_path / "new/train")
    with pytest.raises(
        ValueError, match="new/train and .*new/eval are from different builds, so they may share rows; build both"
    ):
        check_apart(Dataset(tmp_path / "new/train"), held_out)


def test_sets_of_different_folders_are_refused_by_the_rows_that_they_share(tmp_path):
    train, _ = build(tmp_path / "one", rows(1, 2, 3, 4), rows(5))
    _, held_out = build(tmp_path / "two", rows(6), rows(7, 3, 1))
    assert shared_rows(train, held_out) == {1: 2, 2: 0}
    with pytest.raises(
        ValueError,
        match="2 of 3 rows of .*two/eval are also in .*one/train, .* row 00000001 .'How many.'.; build",
    ):
        check_apart(train, held_out)


def test_rows_are_shared_only_with_the_same_question_and_the_same_picture(tmp_path):
    train, _ = build(tmp_path / "one", rows(1, 2), rows(3))
    _, held_out = build(tmp_path / "two", rows(3), [*rows(3, 4), *rows(1, 2, question="What colour?")])
    assert shared_rows(train, held_out) == {}
    assert shared_pictures(train, held_out) == 2  # of the question about colours
    check_apart(train, held_out)


def test_a_set_is_not_apart_from_itself_under_any_name(tmp_path):
    alone = write_dataset(tmp_path / "set", rows(1, 2), **ABOUT)
    (tmp_path / "link").symlink_to("set")
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    for name in ("set", "link", "copy"):
        with pytest.raises(
            ValueError, match=f"use training data: eval_rows .*/{name} has the same rows as .*/set; build separate"
        ):
            check_apart(alone, Dataset(tmp_path / name))

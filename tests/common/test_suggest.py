"""The nearest known name: of a folder, one inside it or one of a similar name."""

from pathlib import Path

import pytest

from vlrl.common.suggest import nearest, nearest_folder


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("data/dots/train", "data/dots/eval", "data/sums", "runs/dots/model"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "manifest.json").touch()


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        ("data/dots", "data/dots/train"),
        ("data/dot", "data/dots/train"),
        ("data/dots/evla", "data/dots/eval"),
        ("dta/dots/train", "data/dots/train"),
        ("data/sum", "data/sums"),
        ("runs/dots", "runs/dots/model"),
    ],
)
def test_the_folder_that_was_meant_is_named(data, named, meant):
    assert nearest_folder(Path(named), with_file="manifest.json") == f"did you mean {meant}? "


def test_a_neighbour_with_another_name_is_not_what_was_meant(data):
    Path("data/functions/train").mkdir(parents=True)
    Path("data/functions/train/manifest.json").touch()
    assert nearest_folder(Path("data/counting/train"), with_file="manifest.json") == ""


def test_nothing_near_is_nothing_said(data, tmp_path):
    assert nearest_folder(Path("elsewhere/xyz"), with_file="manifest.json") == ""
    assert nearest("xyz", ["sums", "dots"]) == ""
    assert nearest("sum", ["sums", "dots"]) == "did you mean 'sums'? "

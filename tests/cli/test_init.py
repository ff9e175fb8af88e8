"""`vlrl init` lays out a new folder, and touches no other."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlrl.cli.main import app
from vlrl.run_file import load_config


def init(folder: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["init", str(folder)])
    return result.exit_code, result.output


def test_a_folder_that_is_not_empty_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "note").write_text("mine")
    assert init(tmp_path) == (2, f"vlrl: {tmp_path} is not an empty folder; name a new or an empty one\n")
    assert init(tmp_path / "note")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


@pytest.mark.parametrize(
    ("driver", "first"), [("", "vlrl train configs/cpu.yaml"), ("580.9", "vlrl prepare configs/qwen3vl_2b.yaml")]
)
def test_the_next_commands_fit_the_machine_and_name_a_run_file_of_the_folder(tmp_path, monkeypatch, driver, first):
    monkeypatch.setattr("vlrl.cli.init.driver_version", lambda: driver)
    code, printed = init(tmp_path / "my")
    assert (code, printed.splitlines()[-1].strip()) == (0, first)
    load_config(tmp_path / "my" / first.split()[-1])


def test_the_readme_s_run_files_are_in_the_folder(tmp_path):
    init(tmp_path)
    words = (tmp_path / "README.md").read_text().split()
    named = {word for word in words if word.startswith("configs/") and word.endswith(".yaml")}
    assert named and all((tmp_path / name).is_file() for name in named)

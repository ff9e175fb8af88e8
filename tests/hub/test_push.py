"""vlrl push to a stand-in of the hub, a server that stores what it gets. The assertions are in tests/hub/push_run.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S


def check(what: str, folder: Path, model: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hub.push_run", what, str(folder), model],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0 and "all hold" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_a_push_sends_only_what_changed_continues_where_it_broke_off_and_says_what_the_hub_refuses(tmp_path, tiny_dense):
    check("uploads", tmp_path, tiny_dense)


@pytest.mark.slow
def test_transformers_and_peft_load_from_the_hub_what_was_pushed_tensor_for_tensor(tmp_path, tiny_dense):
    check("loading", tmp_path, tiny_dense)

"""What may be skipped: the reasons that tests/conftest.py lists, and no other."""

import os
import subprocess
import sys

import pytest

from tests.conftest import MAY_BE_SKIPPED, PATIENCE_S
from tests.loop import ROOT

pytestmark = pytest.mark.slow  # each test is a run of pytest
WHOLE_MODULE = "import pytest\npytest.skip({reason!r}, allow_module_level=True)\n"
ONE_TEST = "import pytest\n@pytest.mark.skipif(True, reason={reason!r})\ndef test_it(): pass\n"


@pytest.fixture
def run(tmp_path):
    """Runs a file of tests under the hooks of tests/conftest.py: pytest's exit code, and what it printed."""

    def run_file(text: str) -> tuple[int, str]:
        (tmp_path / "test_made_up.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", tmp_path]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
        return done.returncode, done.stdout

    return run_file


def test_a_test_skipped_for_a_listed_reason_is_skipped(run):
    code, printed = run(
        "".join(ONE_TEST.format(reason=reason).replace("it", f"it_{n}") for n, reason in enumerate(MAY_BE_SKIPPED))
    )
    assert code == 0 and f"{len(MAY_BE_SKIPPED)} skipped" in printed


@pytest.mark.parametrize("text", [WHOLE_MODULE, ONE_TEST])
def test_a_skip_for_any_other_reason_fails_and_says_so(run, text):
    code, printed = run(text.format(reason="no data here"))
    assert code != 0 and "skipped because 'no data here'; tests/conftest.py lists what may be skipped" in printed


def test_an_expected_failure_is_no_skip(run):
    assert run("import pytest\n@pytest.mark.xfail(strict=True, reason='a known fault')\ndef test_it(): assert False\n")[0] == 0

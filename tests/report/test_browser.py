"""The pages in a real browser, from disk and without a network, at desktop and phone width."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S
from tests.report.browser import CHROMIUM
from tests.report.test_report import write_run
from tests.test_study import FILE
from vlrl.report.page import write_report
from vlrl.study import load_study, write_results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: on Debian, apt install chromium"),
]
MENU = "[...document.querySelectorAll('nav')].reduce((sum, each) => sum + each.scrollWidth - each.clientWidth, 0)"
WIDTH = f"document.title = `${{document.documentElement.scrollWidth + {MENU}}} of ${{innerWidth}}`"
MEASURE = f"<script>setTimeout(() => {{ {WIDTH}; }}, 5000)</script>"
WIDTHS = {"desk": "1280,900", "phone": "390,844"}


def opened(page: Path, folder: Path, *, at: str = "", size: str = WIDTHS["desk"]) -> str:
    """The page's HTML after its scripts have run. Fails if the page writes to the console.

    The script sets the page's title to "WIDTH of WINDOW", where WIDTH includes what the menu hides.
    """
    measured = folder / "measured.html"
    measured.write_text(page.read_text() + MEASURE)
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", f"--window-size={size}",
        "--proxy-server=127.0.0.1:9", "--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom", f"file://{measured}{at}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert not re.findall(r".*:CONSOLE.*", done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report([write_run(folder / "run")], folder / "report.html")
    return folder / "report.html"


@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_draws_its_figures_and_its_rollouts(report, tmp_path, width):
    elements = opened(report, tmp_path, size=WIDTHS[width])
    assert elements.count('class="main-svg"') >= 2 * elements.count('class="figure"') > 10
    assert "12 groups, 24 rollouts found, of 24 here" in elements
    needed, wide = map(int, re.findall(r"<title>(\d+) of (\d+)", elements)[0])
    assert needed <= wide


def test_a_message_on_the_console_fails_the_check(tmp_path):
    (tmp_path / "page.html").write_text("<script>console.error('oh')</script>")
    with pytest.raises(AssertionError, match="oh"):
        opened(tmp_path / "page.html", tmp_path)


def test_filters_in_the_address_are_set_and_applied(report, tmp_path):
    elements = opened(report, tmp_path, at="#rollouts?task=shapes&from=2")
    assert "2 groups, 4 rollouts found, of 24 here" in elements
    assert elements.count('class="picture"') == 2 and elements.count("<rect") >= 2


def test_a_study_s_page_draws_its_figures(tmp_path):
    (tmp_path / "two.yaml").write_text(FILE)
    for arm in ("soft", "hard"):
        for seed in (4, 7):
            write_run(tmp_path / "runs" / f"{arm}-{seed}")
    write_results(load_study(tmp_path / "two.yaml"), tmp_path / "runs")
    elements = opened(tmp_path / "runs/study.html", tmp_path)
    assert elements.count('class="main-svg"') >= 2 * elements.count('class="figure"') > 6

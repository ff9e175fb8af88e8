"""The served page in a real browser, while a run grows: it follows, and the reader's place stays."""

import signal
import subprocess
import sys

import pytest

from tests.conftest import PATIENCE_S
from tests.loop import ROOT
from tests.report.browser import CHROMIUM, SIZES, Browser
from tests.report.test_live import add_step, serving  # noqa: F401 (a fixture)
from tests.report.test_report import write_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: on Debian, apt install chromium"),
]
FOUND = "document.getElementById('found').textContent"
TOP = "document.querySelector('#groups .group').getBoundingClientRect().top"
DRAWN = "document.querySelector('[data-figure=reward-0]').data.find(each => each.x.length > 1).x.length"


@pytest.mark.parametrize("size", SIZES)
def test_the_page_follows_a_run_and_the_reader_s_place_stays(tmp_path, serving, size):  # noqa: F811
    run = write_run(tmp_path / "run", steps=2, ended=False)
    with Browser(tmp_path, SIZES[size]) as browser:
        browser.open(serving(run).url)
        browser.wait_for("document.querySelector('#health p')?.textContent.includes('stopped after step 2')")
        browser.wait_for(f"{DRAWN} === 2")
        browser.value("form.elements.task.value = 'sums', filter()")
        assert browser.value(FOUND) == "6 groups, 12 rollouts found, of 16 here"
        browser.value("document.querySelector('#settings details').open = true")
        browser.value("document.querySelector('#groups').scrollIntoView({ behavior: 'instant' })")
        browser.value("document.querySelector('#groups .answer pre').dataset.mark = 'read'")
        before = browser.value(TOP)
        for step in (3, 4, 5):
            add_step(run, step)
        browser.wait_for(f"{FOUND} === '15 groups, 30 rollouts found, of 40 here'")
        browser.wait_for("document.querySelector('#sections .tiles dd').textContent === '5 of 10'")
        assert abs(browser.value(TOP) - before) < 2
        assert browser.value("[...document.querySelectorAll('[data-mark=read]')].length") == 1, "the same element"
        assert browser.value("document.querySelectorAll('#groups .group').length") == 10, "a page that was not full got more"
        assert browser.value("form.elements.task.value") == "sums"
        assert browser.value("document.querySelector('#settings details').open")
        browser.value("document.getElementById('reward').scrollIntoView({ behavior: 'instant' })")
        browser.wait_for(f"{DRAWN} === 5")
        assert browser.value("document.documentElement.scrollWidth") <= SIZES[size][0]
        assert not browser.messages


def test_a_page_waits_for_a_run_and_says_when_the_command_that_serves_it_was_ended(tmp_path):
    command = [sys.executable, "-m", "vlrl.cli", "report", "--serve", str(tmp_path / "run"), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == f"run: {tmp_path}/run does not exist yet; this page waits for it.\n"
        url = process.stdout.readline().removeprefix("Serving ").partition(";")[0]
        with Browser(tmp_path) as browser:
            browser.open(url)
            browser.wait_for("document.querySelector('#health p')?.textContent.includes('does not exist yet')")
            write_run(tmp_path / "run", steps=1, ended=False)
            browser.wait_for("document.querySelectorAll('#groups .group').length === 4")
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 130
            browser.wait_for("document.querySelector('#health p')?.textContent.startsWith('No reply from vlrl report since')")
    finally:
        process.kill()
    assert process.stderr.read() == "vlrl: stopped by SIGINT\n"

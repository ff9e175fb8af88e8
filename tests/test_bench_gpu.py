"""The checks of a GPU run in little on a CPU, and one that hangs or dies takes none of the others with it."""

import json
import sys

import pytest

from bench.gpu.__main__ import watched
from bench.gpu.worker import CHECKS
from tests.loop import finished, python

BAD_WORKER = """
import json, os, sys, time
for name in sys.argv[1:]:
    def tell(**what):
        print(json.dumps({"check": name} | what), flush=True)
    tell(begin=True)
    tell(figure="number", value=1)
    if name == "hangs":
        time.sleep(3600)
    if name == "dies":
        os._exit(7)
    tell(end="done")
"""


def test_a_check_that_hangs_or_dies_keeps_its_figures_and_leaves_the_others_to_run(tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(BAD_WORKER)
    names = ["first", "hangs", "second", "dies", "third"]
    found = watched([sys.executable, str(worker)], {name: 2.0 if name == "hangs" else 600.0 for name in names})
    assert {name: of["end"] for name, of in found.items()} == {
        "first": "done",
        "hangs": "not done after 2 s",
        "second": "done",
        "dies": "its process ended with 7",
        "third": "done",
    }
    assert all(of["figures"] == {"number": 1} for of in found.values())


def test_a_worker_that_never_begins_ends_with_a_reason_for_each_check(tmp_path):
    found = watched([sys.executable, "-c", "raise SystemExit(3)"], {"one": 600.0, "two": 600.0})
    assert {name: of["end"] for name, of in found.items()} == dict.fromkeys(("one", "two"), "its process ended with 3")


@pytest.mark.slow
def test_every_check_runs_in_little_without_a_gpu_and_finds_no_fault(tmp_path):
    finished(python("-m", "bench.gpu", "--small", "--json", str(tmp_path / "out.json")))
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    assert set(checks) == set(CHECKS)
    assert all(of["end"] == "done" and of["figures"] and not of["faults"] for of in checks.values())

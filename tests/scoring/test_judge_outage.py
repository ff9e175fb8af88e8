"""A run whose judge is killed and started again: it continues without those verdicts, or ends with one sentence."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S
from tests.loop import ROOT, Loop, Process, finished, free_port, python
from tests.scoring.test_judge_vllm import Server

pytestmark = pytest.mark.slow
OUTAGE_S = 60.0


class JudgeProcess:
    """The honest judge of tests.scoring.endpoint, in a process that can be killed."""

    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "tests.scoring.endpoint", str(self.port), "honest"], cwd=ROOT)
        wait_for(self._is_listening)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def wait_for(ready: Callable[[], bool], process: Process | None = None) -> None:
    end = time.monotonic() + PATIENCE_S
    while not ready() and (process is None or process.poll() is None):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def judge():
    process = JudgeProcess()
    yield process
    process.kill()


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Sums, whose answers the judged task compares by a judge and chain_sum by a rule."""
    folder = tmp_path_factory.mktemp("rows") / "chain_sum"
    sizes = ("--train", "64", "--eval", "4")
    finished(python("-m", "vlrl.cli", "data", "build", "data_recipes/chain_sum.py", "--out", folder, *sizes))
    return folder


def loop(runs: Path, rows: Path, model: str, port: int, **more) -> Loop:
    of_rows = {"rows": rows / "train", "eval_rows": rows / "eval", "weight": 1}
    settings = {
        "name": "judged",
        "runs": runs,
        "model": model,
        "mixture": {"judged_answer": of_rows, "chain_sum": of_rows},
        "prompts_per_step": 8,
        "sampling.group_size": 4,
        "sampling.max_new_tokens": 24,
        "coldstart.steps": 100,
        "coldstart.batch_size": 16,
        "evaluation.rows": 2,
        "scoring.judges": {"judge": {"url": f"http://127.0.0.1:{port}/v1", "model": "scripted", "retries": 0}},
    }
    return Loop(overrides=settings | more)


def test_a_run_whose_judge_is_down_for_a_while_scores_nothing_0_for_it_and_says_so(tmp_path, rows, tiny_dense, judge):
    run = loop(tmp_path, rows, tiny_dense, judge.port, steps=30, **{"scoring.max_failed_share": 1.0})
    process = run.start()
    wait_for(lambda: len(run.metrics) >= 3, process)
    judge.kill()
    wait_for(lambda: any(line["status"] == "error" for line in run.rollouts), process)
    judge.start()
    printed = finished(process)
    failed = [line for line in run.rollouts if line["status"] != "ok"]
    assert failed and {line["task"] for line in failed} == {"judged_answer"}
    assert all("scoring.judges.judge" in line["detail"] and line["advantage"] == 0 for line in failed)
    shares = [line["scoring/failed/judged_answer"] for line in run.metrics]
    assert shares[0] == shares[-1] == 0 < max(shares)
    assert all(line["scoring/failed/chain_sum"] == 0 for line in run.metrics)
    assert "until it replies again" in printed and "replies again" in printed.rpartition("until it replies again")[2]
    finished(python("-m", "vlrl.cli", "report", run.folder))
    assert "of judged_answer" in (run.folder / "report.html").read_text()


def test_a_run_whose_judge_stays_down_ends_with_one_sentence(tmp_path, rows, tiny_dense, judge):
    run = loop(tmp_path, rows, tiny_dense, judge.port, steps=30)
    process = run.start()
    wait_for(lambda: len(run.metrics) >= 3, process)
    judge.kill()
    printed = finished(process, 2)
    sentence = printed.strip().splitlines()[-1]
    assert "of task judged_answer have no verdict, more than scoring.max_failed_share 20%" in sentence
    assert "scoring.judges.judge" in sentence


LIKED = """from vlrl.types import Row, Score
from vlrl.verifiers.judges import judged


def prompt(row):
    return [{"role": "user", "content": row.question}]


def verify(response, row):
    if not response or len(response) > 500:
        return Score(reward=0.0)
    verdict = judged({"answer": response}, "Do you like the answer?", {"yes": "you do", "no": "you do not"})
    return Score(reward=float(verdict == "yes"))


EXAMPLES = [("", Row(), 0.0)]
"""
"""Asks for every response, so that a random model's responses are judged too; a random judge gives random verdicts."""


@pytest.fixture(scope="module")
def vllm(tmp_path_factory, tiny_dense):
    server = Server(tiny_dense, tmp_path_factory.mktemp("vllm") / "log")
    yield server
    server.kill()


WAYS = {"gives up": (24, {"retries": 12, "timeout_s": 120}), "waits": (10, {"retries": 200, "timeout_s": PATIENCE_S})}
"""The steps of a run and settings of its judge. Pauses grow to 8 s, so twelve retries take most of a minute. A run that gives up
makes a few more of its short steps in the two seconds in which the judge is not asked again."""


def test_a_minute_without_vllm_s_server_costs_a_run_its_verdicts_or_if_it_waits_the_time(tmp_path, rows, tiny_dense, vllm):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/liked.py").write_text(LIKED)
    of_rows = {"rows": rows / "train", "weight": 1}
    runs = {
        way: loop(tmp_path / way.replace(" ", "-"), rows, tiny_dense, 0, steps=steps).with_(
            task_folders=["tasks", tmp_path / "tasks"],
            mixture={"liked": of_rows, "chain_sum": of_rows},
            coldstart__steps=0,
            scoring__max_failed_share=1.0,
            scoring__judges={"judge": {"url": vllm.url, "model": "tiny", "structured": True, **settings}},
        )
        for way, (steps, settings) in WAYS.items()
    }
    processes = {way: run.start() for way, run in runs.items()}
    wait_for(lambda: len(runs["waits"].metrics) >= 3, processes["waits"])
    vllm.kill()
    time.sleep(OUTAGE_S)
    vllm.start()
    printed = {way: finished(process) for way, process in processes.items()}
    shares = {way: [line["scoring/failed/liked"] for line in run.metrics] for way, run in runs.items()}
    seconds = {way: [line["time/step"] for line in run.metrics] for way, run in runs.items()}
    for way in WAYS:
        print(f"{way}: unscored by step", *(f"{share:.2f}" for share in shares[way]))
        print(f"{way}: seconds by step", *(f"{each:.1f}" for each in seconds[way]))
    for run in runs.values():
        failed = [line for line in run.rollouts if line["status"] != "ok"]
        assert {line["task"] for line in failed} <= {"liked"}
        assert all("scoring.judges.judge" in line["detail"] and line["advantage"] == 0 for line in failed)
        assert all(line["scoring/failed/chain_sum"] == 0 for line in run.metrics)
    assert shares["waits"] == [0.0] * 10 and max(seconds["waits"]) > OUTAGE_S / 2
    assert max(shares["gives up"]) > 0.5 and shares["gives up"][0] == shares["gives up"][-1] == 0
    said = printed["gives up"].rpartition("until it replies again")
    assert said[1] and "replies again" in said[2]

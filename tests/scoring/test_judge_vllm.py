"""A judge behind vLLM's own server: a random model's replies become verdicts only if the server enforces their form."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import PATIENCE_S
from tests.loop import ROOT, free_port
from tests.scoring.test_judge import SKY, boxed, judging
from vlrl.authoring.task_tools import score_all
from vlrl.config import ScoringConfig
from vlrl.scoring.start import open_backends
from vlrl.types import Status

pytestmark = pytest.mark.slow


class Server:
    """vLLM's server with a tiny model, which can be killed and started again at the same address. url: of its API."""

    def __init__(self, model: str, log: Path):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        self._command = [sys.executable, "-m", "tests.scoring.vllm_server", model, str(port)]
        self._log = log
        self.start()

    def start(self) -> None:
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self._log.open("w") as printed:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=env, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
            )
        end = time.monotonic() + PATIENCE_S
        while not self._is_ready():
            assert self._process.poll() is None and time.monotonic() < end, self._log.read_text()[-3000:]
            time.sleep(0.5)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/models", timeout=10).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def vllm(tmp_path_factory, tiny_dense):
    server = Server(tiny_dense, tmp_path_factory.mktemp("vllm") / "log")
    yield server
    server.kill()


ANSWERS = [f"A lamp of {number} watts" for number in range(4)]


def test_a_random_models_replies_are_errors_and_not_rewards(vllm):
    with judging(vllm, model="tiny", max_new_tokens=32) as scorer:
        scores = score_all("judged_answer", boxed(*ANSWERS, SKY.answer), scorer)
    assert {score.status for score in scores[:-1]} == {Status.ERROR}
    assert all("ended with 'length'" in score.detail or "is not a verdict" in score.detail for score in scores[:-1])
    assert (scores[-1].status, scores[-1].reward) == (Status.OK, 1.0)  # a rule decides this one


def test_a_server_that_enforces_the_form_makes_every_reply_a_verdict(vllm):
    with judging(vllm, model="tiny", structured=True) as scorer:
        scores = score_all("judged_answer", boxed(*ANSWERS), scorer)
    for score in scores:  # a random verdict may also be "same" for random words
        assert score.status is Status.OK or "random words" in score.detail, score


def test_a_model_that_the_server_does_not_have_is_found_before_the_run_starts(vllm):
    (judge,) = open_backends(ScoringConfig(judges={"judge": {"url": vllm.url, "model": "other"}})).values()
    with pytest.raises(ValueError, match="the server has no 'other'; it serves tiny"):
        judge.check()

"""A grader over HTTP: its scores become rewards if they keep to the protocol; all else is an error."""

from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S
from tests.scoring.endpoint import serving
from vlrl.authoring.task_tools import score_all
from vlrl.config import ScoringConfig
from vlrl.scoring import Scorer
from vlrl.scoring.start import open_backends, open_services
from vlrl.types import Row, Score, Status

GRADED = """
from vlrl.types import Row
from vlrl.verifiers.judges import remote_score

def prompt(row):
    return []

def verify(response, row):
    return remote_score(response, row)

EXAMPLES = [("a", Row(answer="a"), 1.0)]
"""


def by_equality(path, items):
    return 200, [
        {"reward": float(item["response"] == item["answer"]), "parts": {"n": item["meta"].get("n", 0)}} for item in items
    ]


def scores(folder: Path, endpoint, pairs: list[tuple[str, Row]], **settings) -> list[Score]:
    (folder / "graded.py").write_text(GRADED)
    grader = {"url": endpoint.url, "retries": 0, "timeout_s": PATIENCE_S} | settings
    services = open_services(ScoringConfig(graders={"grader": grader}), None)
    with Scorer([folder], 2, PATIENCE_S, memory_mb=2048, services=services) as scorer:
        return score_all("graded", pairs, scorer)


def test_each_response_gets_its_own_score_in_batches(tmp_path):
    pairs = [(str(number), Row(question="q", answer="7", meta={"n": number})) for number in range(40)]
    with serving(by_equality) as endpoint:
        found = scores(tmp_path, endpoint, pairs, batch=16, concurrency=1)
        batches = [body for _, _, body in endpoint.requests]
    assert found == [Score(reward=float(number == 7), parts={"n": float(number)}) for number in range(40)]
    assert sum(map(len, batches)) == 40 and max(map(len, batches)) <= 16
    assert {tuple(item) for batch in batches for item in batch} == {("question", "response", "answer", "meta")}


def test_what_follows_the_reasoning_is_sent(tmp_path):
    with serving(by_equality) as endpoint:
        (score,) = scores(tmp_path, endpoint, [("<think>8</think>7", Row(answer="7"))])
    assert score.reward == 1.0


BAD = {
    "no list": {"reward": 1},
    "too few": [],
    "too many": [{"reward": 1}] * 2,
    "no reward": [{"status": "ok"}],
    "a reward as text": [{"reward": "1"}],
    "a reward that is a truth": [{"reward": True}],
    "not finite": b'[{"reward": NaN}]',
    "too large": b'[{"reward": 1e999}]',
    "an unknown status": [{"reward": 1, "status": "fine"}],
    "an unknown key": [{"reward": 1, "score": 1}],
    "a part as text": [{"reward": 1, "parts": {"a": "1"}}],
    "not JSON": b"1.0.0",
}


@pytest.mark.parametrize("case", BAD)
def test_a_reply_that_breaks_the_protocol_is_an_error(tmp_path, case):
    with serving(lambda path, body: (200, BAD[case])) as endpoint:
        (score,) = scores(tmp_path, endpoint, [("7", Row(answer="7"))])
    assert (score.status, score.reward) == (Status.ERROR, 0.0)
    assert "scoring.graders.grader" in score.detail


@pytest.mark.parametrize(
    ("status", "becomes"), [("error", Status.ERROR), ("timeout", Status.TIMEOUT), ("bad_row", Status.BAD_ROW)]
)
def test_a_graders_own_status_is_kept(tmp_path, status, becomes):
    with serving(lambda path, body: (200, [{"reward": 0, "status": status, "detail": "why"}])) as endpoint:
        (score,) = scores(tmp_path, endpoint, [("7", Row(answer="7"))])
    assert score.status is becomes
    assert score.detail.endswith("why")


def test_a_grader_that_is_not_there_is_found_before_the_run_starts():
    def check() -> None:
        (grader,) = open_backends(ScoringConfig(graders={"grader": {"url": endpoint.url, "retries": 0}})).values()
        grader.check()

    with serving(by_equality) as endpoint:
        check()
        endpoint.reply = lambda path, body: (200, {})
        with pytest.raises(ValueError, match=r"scoring.graders.grader: the reply is not a list of scores.*start the grader"):
            check()
    with pytest.raises(ValueError, match="after 1 requests; start the grader"):
        check()

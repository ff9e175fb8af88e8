"""The scoring pool: every item gets its own verdict, whatever the verifiers of others do."""

import logging
import os
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from threading import Thread

import pytest

import vlrl.scoring.scorer
from tests.conftest import PATIENCE_S
from tests.sandbox.test_processes import ends
from vlrl.sandbox.jail import ISOLATION
from vlrl.scoring import Scorer
from vlrl.types import Rollout, Row, Score, Status

TOY = """
import ctypes, os, signal, subprocess, sys, time
from vlrl.tasks import BadRow
from vlrl.types import Row, Score

def prompt(row):
    return []

def verify(response, row):
    print("a verifier may print", sys.stdin.read())
    if response == row.answer:
        return Score(reward=1.0, parts={"length": len(response), "meta": row.meta.get("n", 0)}, detail=repr(row.images))
    return eval(response)

EXAMPLES = [("a", Row(answer="a"), 1.0)]
"""

STUCK = ["[None for _ in iter(int, 1)]", "sum(range(10**12))", "time.sleep(10**6)", "os.kill(os.getpid(), signal.SIGSTOP)"]
BROKEN = {
    "os._exit(3)": "exit code 3",
    "os.kill(os.getpid(), signal.SIGSEGV)": "SIGSEGV",
    "ctypes.string_at(0)": "SIGSEGV",
    "sys.exit(0)": "SystemExit",
    "(_ for _ in ()).throw(KeyboardInterrupt)": "KeyboardInterrupt",
    "bytearray(1 << 33)": "MemoryError",
    "Score(reward=1.0, parts={'x' * (1 << 21): 1.0})": "unreadable reply: a line has more than 1048576 bytes",
    "0.5": "got float",
    "Score(reward=float('nan'))": "finite",
    "1 / 0": "ZeroDivisionError",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "toy.py").write_text(TOY)
    return tmp_path


def pool(folder: Path, workers: int = 1, timeout_s: float = PATIENCE_S, **of_tasks) -> Scorer:
    return Scorer([folder], workers=workers, timeout_s=timeout_s, memory_mb=1024, **of_tasks)


def rollout(text: str, slot: int = 0, sample: int = 0) -> Rollout:
    return Rollout(slot=slot, sample=sample, tokens=(), logprobs=(), text=text, finish_reason="stop", weight_versions=())


def score_all(scorer: Scorer, texts: list[str], answer: str = "right") -> list[Score]:
    for slot, text in enumerate(texts):
        scorer.submit(rollout(text, slot), "toy", Row(key=f"row {slot}", answer=answer))
    return list(scorer.collect().values())


def test_rows_and_scores_cross_whole(folder):
    row = Row(key="k", answer="é\ud800\n", images=("a.tar#1+2",), meta={"n": 7})
    with pool(folder) as scorer:
        scorer.submit(rollout("é\ud800\n", slot=3, sample=1), "toy", row)
        assert scorer.collect() == {(3, 1): Score(reward=1.0, parts={"length": 3.0, "meta": 7.0}, detail="('a.tar#1+2',)")}
        assert scorer.collect() == {}


def test_many_items_get_each_its_own_score_whoever_ends_first(folder):
    texts = [f"(time.sleep({0.02 * (n % 3)}), Score(reward={n}))[1]" for n in range(60)]
    with pool(folder, workers=2) as scorer:
        assert [score.reward for score in score_all(scorer, texts)] == list(range(60))
        assert len(scorer.latencies["toy"]) == 60
        assert max(scorer.latencies["toy"]) > 0.02


@pytest.mark.parametrize("text", STUCK)
def test_a_hang_is_killed_at_its_deadline_and_the_next_item_still_scores(folder, text, caplog):
    with pool(folder, timeouts_s={"stuck": 0.3}) as scorer, caplog.at_level(logging.WARNING, "vlrl.scoring"):
        scorer.submit(rollout(text, slot=0), "stuck", Row(key="row 0"), file="toy")
        scorer.submit(rollout("right", slot=1), "toy", Row(answer="right"))
        stuck, fine = scorer.collect().values()
    assert (stuck.status, stuck.detail) == (Status.TIMEOUT, "verify returned no score in 0.3 s")
    assert (fine.status, fine.reward) == (Status.OK, 1.0)
    assert "task 'stuck', row 'row 0'" in caplog.text


def test_a_crash_is_an_error_and_the_next_item_still_scores(folder):
    texts = [text for broken in BROKEN for text in (broken, "right")]
    with pool(folder) as scorer:
        scores = score_all(scorer, texts)
    assert all(fine.status == Status.OK and fine.reward == 1.0 for fine in scores[1::2])
    for (text, detail), broken in zip(BROKEN.items(), scores[::2], strict=True):
        assert broken.status == Status.ERROR, text
        assert detail in broken.detail, text


def test_equal_responses_to_a_row_are_scored_once_and_share_the_verdict(folder, tmp_path):
    count = f"open({str(tmp_path / 'calls')!r}, 'a').write('x') and Score(reward=0.5)"
    row = Row(key="one", answer="right")
    with pool(folder, workers=2) as scorer:
        for batch in ([count, "right", count, count], [count]):  # a later batch asks again
            for sample, text in enumerate(batch):
                scorer.submit(rollout(text, sample=sample), "toy", row)
            rewards = [score.reward for score in scorer.collect().values()]
            assert rewards == [1.0 if text == "right" else 0.5 for text in batch]
    assert (tmp_path / "calls").read_text() == "xx"


def test_a_row_that_cannot_be_scored_has_its_own_status(folder):
    with pool(folder) as scorer:
        (score,) = score_all(scorer, ["exec('raise BadRow(\"no gold\")')"])
    assert (score.status, score.detail) == (Status.BAD_ROW, "no gold")


def test_a_task_that_cannot_be_loaded_is_an_error_that_says_why(folder):
    with pool(folder) as scorer:
        scorer.submit(rollout("x"), "missing", Row())
        (score,) = scorer.collect().values()
    assert score.status == Status.ERROR
    assert re.search(r"no task 'missing' in \[.*\]; found \['toy'\]", score.detail)


def test_time_in_the_queue_and_in_imports_is_not_counted(folder):
    (folder / "toy.py").write_text(f"import time\ntime.sleep(10.5)\n{TOY}")
    with pool(folder, timeout_s=10.0) as scorer:
        scores = score_all(scorer, ["right", "Score(reward=0.5)", "right"])
    assert [score.status for score in scores] == [Status.OK] * 3


def test_a_killed_worker_takes_what_it_started_with_it(folder, tmp_path):
    note = tmp_path / "pid"
    start = f"open({str(note)!r}, 'w').write(str(subprocess.Popen(['sleep', '1000000']).pid))"
    with pool(folder) as scorer:
        score_all(scorer, [f"({start}, Score(reward=1.0, parts={{'x' * (1 << 21): 1.0}}))[1]"])
    assert ends(int(note.read_text()))


def test_a_task_may_have_a_deadline_of_its_own(folder):
    (folder / "slow.py").write_text(TOY)
    with pool(folder, timeout_s=0.5, timeouts_s={"slow": PATIENCE_S}) as scorer:
        scorer.submit(rollout("time.sleep(10**6)", slot=0), "toy", Row())
        scorer.submit(rollout("(time.sleep(1), Score(reward=1.0))[1]", slot=1), "slow", Row())
        short, long = scorer.collect().values()
    assert (short.status, long.status) == (Status.TIMEOUT, Status.OK)


def test_a_task_may_have_another_name_than_its_file(folder):
    with pool(folder, timeouts_s={"named": 0.5}) as scorer:
        scorer.submit(rollout("right", slot=0), "toy", Row(answer="right"), file="toy")
        scorer.submit(rollout("time.sleep(10**6)", slot=1), "named", Row(), file="toy")
        whole, short = scorer.collect().values()
    assert (whole.status, short.status) == (Status.OK, Status.TIMEOUT)
    assert set(scorer.latencies) == {"toy", "named"}


def test_a_task_that_may_have_one_worker_leaves_the_others_to_the_rest(folder, tmp_path):
    """Each of the slow ones holds a file that may be made only once at a time, until the quick ones' verdicts are there."""
    (folder / "slow.py").write_text(TOY)
    held, gate = tmp_path / "held", tmp_path / "gate"
    wait = f"[time.sleep(0.01) for _ in iter(lambda: os.path.exists({str(gate)!r}), True)]"
    alone = f"(open({str(held)!r}, 'x').close(), {wait}, os.unlink({str(held)!r}), Score(reward={{}}))[-1]"
    with pool(folder, workers=2, at_a_time={"slow": 1}) as scorer:
        for slot in range(4):
            scorer.submit(rollout(alone.format(slot), slot), "slow", Row())
        for slot in range(4, 12):
            scorer.submit(rollout("right", slot), "toy", Row(key=str(slot), answer="right"))
        for job in list(scorer._pending.values())[4:]:
            job.result.result(PATIENCE_S)
        gate.touch()
        scores = scorer.collect()
    assert [scores[slot, 0].reward for slot in range(12)] == [0, 1, 2, 3] + [1] * 8


def test_a_full_queue_lets_the_one_who_submits_wait(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(vlrl.scoring.scorer, "_MOST_WAITING", 2)
    gate, scores = tmp_path / "gate", []
    wait = f"[time.sleep(0.01) for _ in iter(lambda: os.path.exists({str(gate)!r}), True)]"
    texts = [f"({wait}, Score(reward={n}))[-1]" for n in range(12)]
    with pool(folder) as scorer:
        submitting = Thread(target=lambda: scores.extend(score_all(scorer, texts)))
        submitting.start()
        submitting.join(1.0)
        assert len(scorer._pending) <= 3, "one in work, two that wait"
        gate.touch()
        submitting.join(PATIENCE_S)
    assert [score.reward for score in scores] == list(range(12))


def test_a_worker_is_replaced_after_so_many_items(folder, monkeypatch):
    monkeypatch.setattr(vlrl.scoring.scorer, "_MOST_SCORED", 3)
    with pool(folder) as scorer:
        scores = score_all(scorer, [f"Score(reward=os.getpid() + {n} * 0)" for n in range(7)])
    assert [len(list(same)) for _, same in groupby(score.reward for score in scores)] == [3, 3, 1]


def test_closing_drops_what_waits(folder, tmp_path):
    (tmp_path / "begun").touch()
    text = f"(open({str(tmp_path / 'begun')!r}, 'a').write('x'), time.sleep(10**6), {{}})"
    with pool(folder, timeout_s=0.5) as scorer:
        for slot in range(100):
            scorer.submit(rollout(text.format(slot), slot), "toy", Row())
    assert len((tmp_path / "begun").read_text()) < 50


def test_neither_side_of_the_pool_imports_torch():
    modules = "vlrl.scoring, vlrl.scoring.worker, vlrl.tasks, vlrl.verifiers.answers, vlrl.verifiers.code"
    program = f"import sys, {modules}; print([name for name in ('torch', 'numpy', 'PIL', 'yaml') if name in sys.modules])"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.slow
def test_of_ten_thousand_scores_with_dying_workers_none_is_lost_and_none_doubled(folder):
    with pool(folder, workers=2) as scorer:
        for number in range(10_000):
            text = f"Score(reward={number})" if number % 100 else f"os._exit({1 + number % 7})"
            scorer.submit(rollout(text, slot=number // 8, sample=number % 8), "toy", Row(answer="", key=str(number)))
        scores = scorer.collect()
    assert list(scores) == [(number // 8, number % 8) for number in range(10_000)]
    for number, score in enumerate(scores.values()):
        assert (score.status, score.reward) == ((Status.OK, number) if number % 100 else (Status.ERROR, 0.0))


def test_workers_have_the_isolation_that_they_are_given_and_this_process_keeps_its_own(folder, monkeypatch):
    monkeypatch.setenv(ISOLATION, "jail")
    with pool(folder, isolation="limits") as scorer:
        (score,) = score_all(scorer, [f"Score(reward=1.0, detail=os.environ[{ISOLATION!r}])"])
    assert score.detail == "limits" and os.environ[ISOLATION] == "jail"

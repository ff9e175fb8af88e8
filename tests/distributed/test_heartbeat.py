"""The heartbeat: who is lost is named on every other rank, and ranks that are well are left alone."""

import json
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from tests.conftest import PATIENCE_S
from tests.distributed.beating import Beating
from vlrl.distributed.heartbeat import LOST

HOST = socket.gethostname()
SILENT_S = 10.0  # of a healthy rank on a busy machine, never


class Ranks:
    """Three ranks, each as on a host of its own, and the store that a launcher would hold."""

    def __init__(self, folder: Path, silent_s: float, wait_s: float) -> None:
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        how = {"port": self.store.port, "silent_s": silent_s, "wait_s": wait_s}
        self.each = [Beating(rank, 3, folder / f"rank-{rank}", **how) for rank in range(3)]
        self.hear()

    def hear(self) -> None:
        """Waits until every rank has sent news three times more."""
        wanted = [self._count(rank) + 3 for rank in range(3)]
        until = time.monotonic() + PATIENCE_S
        while any(self._count(rank) < wanted[rank] for rank in range(3)) and time.monotonic() < until:
            time.sleep(0.05)

    def _count(self, rank: int) -> int:
        key = f"heartbeat//0/{rank}"
        return json.loads(self.store.get(key))["count"] if self.store.check([key]) else 0


@pytest.fixture
def start(tmp_path):
    """A function that starts three ranks; they are killed afterwards."""
    started = []

    def start_ranks(silent_s: float = SILENT_S, wait_s: float = PATIENCE_S) -> Ranks:
        started.append(Ranks(tmp_path, silent_s, wait_s))
        return started[-1]

    yield start_ranks
    for rank in (rank for ranks in started for rank in ranks.each):
        rank.close()


@pytest.mark.parametrize("lost", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_rank_that_hangs_ends_the_others_with_its_name_phase_and_silence(start, lost):
    ranks = start()
    ranks.each[lost].say("do generate")
    ranks.hear()
    ranks.each[lost].send(signal.SIGSTOP)
    for other in {0, 1, 2} - {lost}:
        code, printed = ranks.each[other].end()
        said = re.search(
            rf"vlrl: rank {lost} \({HOST}, last seen in: generate\) is gone or hangs: silent for (\d+) s\. ", printed
        )
        assert code == LOST and said and int(said[1]) >= SILENT_S, printed
        assert "Start it again on every host, it continues from the beginning: <launcher> -m vlrl.cli" in printed


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_ends_the_others_with_its_sentence(start, failing):
    ranks = start(silent_s=PATIENCE_S)
    ranks.each[failing].say("fail the disk is full")
    assert ranks.each[failing].end() == (2, "")
    for other in {0, 1, 2} - {failing}:
        code, printed = ranks.each[other].end()
        assert code == LOST and f"vlrl: rank {failing} ({HOST}) failed: the disk is full. Start it" in printed


@pytest.mark.slow
def test_after_a_failed_collective_a_killed_rank_is_named_long_before_its_silence_would_end_the_run(start):
    ranks = start(silent_s=PATIENCE_S)
    ranks.each[1].send(signal.SIGKILL)
    ranks.each[2].say("lose gloo: connection closed by peer")
    for other in (0, 2):
        code, printed = ranks.each[other].end()
        assert code == LOST and f"vlrl: rank 1 ({HOST}, last seen in: Starting) is gone or hangs" in printed


@pytest.mark.slow
def test_a_failed_collective_of_ranks_that_are_all_well_is_the_fault_of_the_one_that_reports_it(start):
    ranks = start(silent_s=PATIENCE_S)
    ranks.each[1].say("lose gloo: out of memory")
    assert ranks.each[1].end() == (2, "")
    assert all(f"rank 1 ({HOST}) failed: gloo: out of memory" in ranks.each[other].end()[1] for other in (0, 2))


def test_a_store_that_is_closed_ends_the_others(start):
    ranks = start(silent_s=PATIENCE_S)
    ranks.each[0].send(signal.SIGSTOP)
    ranks.store = None
    for other in (1, 2):
        code, printed = ranks.each[other].end()
        assert code == LOST and "has ended, or its launcher has: its store is closed" in printed


@pytest.mark.slow
def test_ranks_that_end_one_after_another_all_end_well(start):
    ranks = start()
    for rank in (0, 2):
        ranks.each[rank].say("end")
    assert [ranks.each[rank].end() for rank in (0, 2)] == [(0, "")] * 2
    ranks.store = None  # with the launcher of the first rank
    time.sleep(SILENT_S / 2)
    ranks.each[1].say("end")
    code, printed = ranks.each[1].end()
    assert code == 0 and "vlrl:" not in printed  # torch itself may print that the store is gone


@pytest.mark.slow
def test_ranks_that_were_all_stopped_for_longer_than_the_limit_continue(start):
    ranks = start()
    for rank in range(3):
        ranks.each[rank].send(signal.SIGSTOP)
    time.sleep(1.5 * SILENT_S)
    for rank in range(3):
        ranks.each[rank].send(signal.SIGCONT)
    ranks.hear()
    for rank in (2, 1, 0):
        ranks.each[rank].say("end")
    assert [ranks.each[rank].end() for rank in range(3)] == [(0, "")] * 3


def test_a_rank_that_others_wait_for_is_named_while_it_is_alive(start):
    ranks = start(wait_s=4)
    ranks.each[1].say("do generate")
    for waiting in (0, 2):
        ranks.each[waiting].say("wait")
    until = time.monotonic() + PATIENCE_S
    while not ranks.each[0].printed.endswith("\n") and time.monotonic() < until:
        time.sleep(0.05)
    said = ranks.each[0].printed
    assert re.fullmatch(rf"warning: others wait for rank 1 \({HOST}\), in: generate, for \d+ s; they give up after 4 s\n", said)

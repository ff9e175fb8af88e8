"""Ranks write, seal and find checkpoints together: if one fails, all stop at the same step."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import PATIENCE_S
from tests.distributed.saving import CrashError, crash, flipped, names, newest_step, save_steps, write_weights
from vlrl.distributed import checkpoint
from vlrl.distributed.checkpoint import newest_good, save


class Ranks:
    """`agree` for ranks that are threads: a barrier that gives each the smallest value."""

    def __init__(self, num_ranks: int) -> None:
        self.values: list[int] = []
        self.barrier = threading.Barrier(num_ranks, timeout=PATIENCE_S)

    def agree(self, value: int) -> int:
        self.values.append(value)
        self.barrier.wait()
        smallest = min(self.values)
        if self.barrier.wait() == 0:
            self.values.clear()
        self.barrier.wait()
        return smallest


def on_two_ranks(work) -> list:
    """work(rank, agree) on two threads: what each returned, or the exception that it ended with."""
    ranks = Ranks(2)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(work, rank, ranks.agree) for rank in range(2)]
    return [run.exception() or run.result() for run in runs]


def test_two_ranks_write_one_checkpoint_and_find_the_same(tmp_path):
    def work(rank, agree):
        save(tmp_path, 50, write_one(rank), {}, keep=1, rank=rank, world_size=2, agree=agree)
        return newest_good(tmp_path, rank=rank, world_size=2, agree=agree)

    first, second = on_two_ranks(work)
    assert first == second
    assert names(first.path) == ["manifest.json", "rank0.pt", "rank1.pt", "state.json"]


def write_one(rank):
    return lambda folder: (folder / f"rank{rank}.pt").write_text(f"of rank {rank}")


def test_each_rank_hashes_the_files_that_it_wrote_and_no_other(tmp_path, monkeypatch):
    hashed = []
    digest = checkpoint._sha256
    monkeypatch.setattr(checkpoint, "_sha256", lambda path: hashed.append((threading.get_ident(), path.name)) or digest(path))
    on_two_ranks(lambda rank, agree: save(tmp_path, 50, write_one(rank), {}, keep=1, rank=rank, world_size=2, agree=agree))
    by_thread = [sorted(name for thread, name in hashed if thread == each) for each in {thread for thread, _ in hashed}]
    assert sorted(by_thread) == [["rank0.pt", "state.json"], ["rank1.pt"]]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_whose_files_cannot_be_hashed_is_named_and_both_stop(tmp_path, monkeypatch, failing):
    save_steps(tmp_path, 50)
    entry = checkpoint._entry

    def broken(path):
        if path.name == f"rank{failing}.pt":
            raise OSError("input/output error")
        return entry(path)

    monkeypatch.setattr(checkpoint, "_entry", broken)

    def work(rank, agree):
        save(tmp_path, 100, write_one(rank), {}, keep=2, rank=rank, world_size=2, agree=agree)

    ended = on_two_ranks(work)
    assert "input/output error" in str(ended[failing])
    assert ("rank 1 could not sync and hash its files" if failing else "failed on another rank") in str(ended[1 - failing])
    assert newest_step(tmp_path) == 50


def test_rank_0_waits_for_the_others_only_until_a_deadline_and_names_who_is_missing(tmp_path, monkeypatch):
    save_steps(tmp_path, 50)
    monkeypatch.setattr(checkpoint, "DEADLINE_S", 0.0)
    with pytest.raises(TimeoutError, match="rank 1, 2 did not sync and hash its files"):
        save(tmp_path, 100, write_one(0), {}, keep=2, world_size=3)
    assert newest_step(tmp_path) == 50


ENDING = """
import sys
from pathlib import Path
from vlrl.distributed import checkpoint

checkpoint._GRACE_S = 0.2
write = lambda folder: [(folder / f"{number}.pt").write_bytes(bytes(10_000_000)) for number in range(3)]
checkpoint.begin(Path(sys.argv[1]), 50, write, {}, keep=2, world_size=int(sys.argv[2]))
raise SystemExit(3)
"""


@pytest.mark.parametrize(("world_size", "found"), [(1, 50), (2, None)])
def test_a_process_that_ends_seals_what_it_can_and_does_not_wait_for_ranks_that_are_gone(tmp_path, world_size, found):
    ended = subprocess.run([sys.executable, "-c", ENDING, str(tmp_path), str(world_size)], timeout=PATIENCE_S, check=False)
    assert ended.returncode == 3
    newest = newest_good(tmp_path)
    assert (newest and newest.step) == found


def test_a_fault_that_only_one_rank_reads_moves_both_to_the_step_before(tmp_path, caplog):
    save_steps(tmp_path, 50, 100)
    flipped(tmp_path / "step-000100")  # the second of its files, so in rank 1's share
    found = on_two_ranks(lambda rank, agree: newest_good(tmp_path, rank=rank, world_size=2, agree=agree))
    assert [each.step for each in found] == [50, 50]
    assert len(caplog.messages) == 1


def test_a_rank_that_does_not_see_the_checkpoints_stops_both(tmp_path):
    save_steps(tmp_path / "0", 50)
    found = on_two_ranks(lambda rank, agree: newest_good(tmp_path / str(rank), rank=rank, world_size=2, agree=agree))
    assert [type(each) for each in found] == [ValueError, ValueError]


@pytest.mark.parametrize("failing", [0, 1])
def test_where_writing_fails_on_one_rank_both_stop_and_nothing_new_counts(tmp_path, failing):
    save_steps(tmp_path, 50)

    def work(rank, agree):
        save(tmp_path, 100, crash if rank == failing else write_weights, {}, keep=2, rank=rank, world_size=2, agree=agree)

    ended = on_two_ranks(work)
    assert isinstance(ended[failing], CrashError)
    assert "failed on another rank" in str(ended[1 - failing])
    assert newest_step(tmp_path) == 50

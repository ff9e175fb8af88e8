"""Scores rollouts in worker processes, while the engine still generates others.

A worker loads the tasks by name and runs their verifiers; only strings, rows and scores cross. A verifier that hangs,
crashes or eats memory costs its own item a status other than OK, and its worker is replaced: it never costs the run,
another item, or a silent reward of 0.
"""

import logging
import math
import os
import queue
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from vlrl.processes import Child
from vlrl.scoring.wire import Item, dump_item, load_score
from vlrl.types import Rollout, Row, Score, Status

log = logging.getLogger("vlrl.scoring")

_START_S = 120.0  # for a worker to start and import a task's libraries, on a loaded machine

Key = tuple[int, int]


class Scorer:
    """A pool of scoring workers, each served by a thread here; a context manager.

    task_folders: as for `load_task`; timeout_s: for one verify, counted from its start in the worker; memory_mb: a worker's
    address space. latencies: seconds that each verify of the last `collect` took, by task.
    """

    def __init__(self, task_folders: Sequence[Path | str], workers: int, timeout_s: float, memory_mb: int):
        self.latencies: dict[str, list[float]] = {}
        self._folders = [str(Path(folder).resolve()) for folder in task_folders]
        self._timeout_s = timeout_s
        self._limits = {resource.RLIMIT_AS: memory_mb << 20, resource.RLIMIT_CORE: 0}
        self._pending: dict[Key, tuple[Item, Future[tuple[Score, float]]]] = {}
        self._verdicts: dict[bytes, Future[tuple[Score, float]]] = {}
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="scoring")
        self._idle: queue.SimpleQueue[Child | None] = queue.SimpleQueue()  # None: a place whose worker is to be started
        for _ in range(workers):
            self._idle.put(None)

    def submit(self, rollout: Rollout, task_name: str, row: Row) -> None:
        """Queues a rollout's response and returns at once; its score comes from `collect` under (slot, sample).

        A verifier depends on response and row alone: of the equal responses to a row one is scored, and the others share it.
        """
        key = (rollout.slot, rollout.sample)
        assert key not in self._pending, f"rollout {key} is submitted twice"
        item = Item(task=task_name, row=row, response=rollout.text)
        line = dump_item(item)
        if line not in self._verdicts:
            self._verdicts[line] = self._threads.submit(self._score, item, line)
        self._pending[key] = (item, self._verdicts[line])

    def collect(self, tick: Callable[[], None] = lambda: None) -> dict[Key, Score]:
        """Waits for all that was submitted since the last call: {(slot, sample): score}, in order of submission.

        tick: called after each.

        RuntimeError, naming task and row, where one has no verdict long after its deadline, which is a fault of this pool.
        """
        scores: dict[Key, Score] = {}
        latencies = defaultdict(list)
        patience_s = 2 * (_START_S + self._timeout_s)  # items start in order: those before this one are done
        for key, (item, future) in self._pending.items():
            try:
                scores[key], seconds = future.result(patience_s)
            except TimeoutError:
                raise RuntimeError(f"scoring of {_name(item)}, rollout {key}, gave no verdict in {patience_s:.0f} s") from None
            if not math.isnan(seconds):
                latencies[item.task].append(seconds)
            tick()
        self._pending, self._verdicts = {}, {}
        self.latencies = dict(latencies)
        return scores

    def close(self) -> None:
        """Drops what waits, lets what runs come to its deadline, and ends the workers."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            worker = self._idle.get()
            if worker:
                worker.kill()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _score(self, item: Item, line: bytes) -> tuple[Score, float]:
        """The item's score and the seconds that it took, nan where verify did not start. Runs in a thread of the pool."""
        worker = self._idle.get()
        began = math.nan
        try:
            worker = worker or self._start_worker()
            worker.send(line)
            worker.receive(time.monotonic() + _START_S)
            began = time.monotonic()
            score = load_score(worker.receive(began + self._timeout_s))
        except (EOFError, OSError, ValueError) as error:  # OSError: TimeoutError, BrokenPipeError, no more processes
            exit_code = worker.kill() if worker else None
            worker = None
            score = self._failure(error, not math.isnan(began), exit_code)
            log.warning("scoring of %s: %s; its worker is replaced", _name(item), score.detail)
        finally:
            self._idle.put(worker)
        return score, time.monotonic() - began

    def _failure(self, error: Exception, started: bool, exit_code: int | None) -> Score:
        status = Status.ERROR
        if isinstance(error, TimeoutError) and started:
            status, detail = Status.TIMEOUT, f"no verdict in {self._timeout_s} s"
        elif isinstance(error, TimeoutError):
            detail = f"the task was not loaded in {_START_S} s"
        elif exit_code is None:
            detail = f"no worker could be started: {error}"
        elif isinstance(error, ValueError):
            detail = f"unreadable reply: {error}"
        else:
            ending = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
            detail = f"the worker ended with {ending}"
        return Score(reward=0.0, status=status, detail=detail)

    def _start_worker(self) -> Child:
        # A numerical library's threads would each reserve address space, and the trainer has the cores.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        env = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return Child([sys.executable, "-m", "vlrl.scoring.worker", *self._folders], limits=self._limits, env=env)


def _name(item: Item) -> str:
    return f"task {item.task!r}, row {item.row.key!r}"

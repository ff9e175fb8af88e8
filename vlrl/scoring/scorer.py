"""Scores rollouts in worker processes, while the engine still generates others.

A worker loads the tasks by name and runs their verifiers; only strings, rows and scores cross. A verifier that hangs,
crashes or eats memory costs its own item a status other than OK, and its worker is replaced: it never costs the run,
another item, or a silent reward of 0.
"""

import logging
import math
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import MappingProxyType

from vlrl.sandbox.processes import Child
from vlrl.scoring.jobs import Job, Jobs
from vlrl.scoring.protocol import Item, dump_item, load_score
from vlrl.types import Rollout, Row, Score, Status

log = logging.getLogger("vlrl.scoring")

_START_S = 120.0  # for a worker to start and import a task's libraries, on a loaded machine
_MOST_WAITING = 10_000
_MOST_SCORED = 2_000  # by one worker, which is then replaced: what libraries keep for ever does not add up

Key = tuple[int, int]
Timed = tuple[Score, float]


class Scorer:
    """A pool of scoring workers, each served by a thread here; a context manager.

    task_folders: as for `load_task`; timeout_s: for one verify, counted from its start in the worker; memory_mb: a worker's
    address space; timeouts_s: of tasks with another; at_a_time: workers that a task may have, where that is fewer than all.
    folders: those of the tasks; latencies: seconds that each verify of the last `collect` took, by task.
    """

    def __init__(
        self,
        task_folders: Sequence[Path | str],
        workers: int,
        timeout_s: float,
        memory_mb: int,
        *,
        timeouts_s: Mapping[str, float] = MappingProxyType({}),
        at_a_time: Mapping[str, int] = MappingProxyType({}),
    ):
        self.latencies: dict[str, list[float]] = {}
        self.folders = [str(Path(folder).resolve()) for folder in task_folders]
        self._timeout_s = timeout_s
        self._timeouts_s = timeouts_s
        # Items of a task start in order, so that each is done soon after the one before it.
        self._patience_s = 2 * (_START_S + max([timeout_s, *timeouts_s.values()]))
        self._limits = {resource.RLIMIT_AS: memory_mb << 20, resource.RLIMIT_CORE: 0}
        self._pending: dict[Key, Job] = {}
        self._verdicts: dict[tuple[str, bytes], Job] = {}
        self._jobs = Jobs(_MOST_WAITING, at_a_time)
        self._threads = [Thread(target=self._serve, name=f"scoring {number}", daemon=True) for number in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, rollout: Rollout, task: str, row: Row, *, file: str = "") -> None:
        """Queues a rollout's response; its score comes from `collect` under (slot, sample). Waits only where the queue is full.

        file: the task file's stem, where the task's name in the run is another.

        A verifier depends on response and row alone: of the equal responses to a row one is scored, and the others share it.
        """
        key = (rollout.slot, rollout.sample)
        assert key not in self._pending, f"rollout {key} is submitted twice"
        item = Item(task=file or task, row=row, response=rollout.text)
        line = dump_item(item)
        if (task, line) not in self._verdicts:
            job = self._verdicts[task, line] = Job(item=item, task=task, line=line)
            with self._told_if_late(job, key):
                self._jobs.put(job, self._patience_s)
        self._pending[key] = self._verdicts[task, line]

    def collect(self, tick: Callable[[], None] = lambda: None) -> dict[Key, Score]:
        """Waits for all that was submitted since the last call: {(slot, sample): score}, in order of submission.

        tick: called after each.

        RuntimeError, naming task and row, where one has no verdict long after its deadline, which is a fault of this pool.
        """
        scores: dict[Key, Score] = {}
        latencies = defaultdict(list)
        for key, job in self._pending.items():
            with self._told_if_late(job, key):
                scores[key], seconds = job.verdict.result(self._patience_s)
            if not math.isnan(seconds):
                latencies[job.task].append(seconds)
            tick()
        self._pending, self._verdicts = {}, {}
        self.latencies = dict(latencies)
        return scores

    def close(self) -> None:
        """Drops what waits, lets what runs come to its deadline, and ends the workers."""
        self._jobs.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _told_if_late(self, job: Job, key: Key) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise RuntimeError(f"scoring of {_name(job)}, rollout {key}, gave no verdict in {self._patience_s:.0f} s") from None

    def _serve(self) -> None:
        """One thread's work: jobs, one after another, in a worker of its own, until the pool is closed."""
        worker: Child | None = None
        scored = 0
        while job := self._jobs.take():
            try:
                worker, verdict = self._score(job, worker)
                job.verdict.set_result(verdict)
            except BaseException as error:  # a fault of this pool: for the one who waits, not for this thread
                job.verdict.set_exception(error)
            self._jobs.done(job)
            scored = scored + 1 if worker else 0
            if worker and scored == _MOST_SCORED:
                worker.kill()
                worker, scored = None, 0
        if worker:
            worker.kill()

    def _score(self, job: Job, worker: Child | None) -> tuple[Child | None, Timed]:
        """The item's score and the seconds that it took, nan where verify did not start; and the worker, None if it is lost."""
        timeout_s = self._timeouts_s.get(job.task, self._timeout_s)
        began = math.nan
        try:
            worker = worker or self._start_worker()
            worker.send(job.line)
            worker.receive(time.monotonic() + _START_S)
            began = time.monotonic()
            score = load_score(worker.receive(began + timeout_s))
        except (EOFError, OSError, ValueError) as error:  # OSError: TimeoutError, BrokenPipeError, no more processes
            exit_code = worker.kill() if worker else None
            worker = None
            score = _failure(error, exit_code, None if math.isnan(began) else timeout_s)
            log.warning("scoring of %s: %s; its worker is replaced", _name(job), score.detail)
        return worker, (score, time.monotonic() - began)

    def _start_worker(self) -> Child:
        # A numerical library's threads would each reserve address space, and the trainer has the cores.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        env = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return Child([sys.executable, "-m", "vlrl.scoring.worker", *self.folders], limits=self._limits, env=env)


def _failure(error: Exception, exit_code: int | None, timeout_s: float | None) -> Score:
    """What is told of a worker that was lost. exit_code: None where none had started; timeout_s: None before verify began."""
    status = Status.ERROR
    if isinstance(error, TimeoutError) and timeout_s:
        status, detail = Status.TIMEOUT, f"no verdict in {timeout_s} s"
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


def _name(job: Job) -> str:
    return f"task {job.task!r}, row {job.item.row.key!r}"

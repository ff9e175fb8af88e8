"""Scores rollouts in worker processes, while the engine generates other rollouts.

A worker loads the tasks by name and runs their verifiers. Workers exchange only strings, rows and scores with this process. If a
verifier hangs, crashes or uses too much memory, its item gets a status other than OK and its worker is replaced. It never stops
the run, affects another item, or gives a silent reward of 0.

A verifier may ask a service, such as a judge. This process asks it, while the worker scores other items; see vlrl.common.ask.
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
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Any

from vlrl.common.ask import Question
from vlrl.sandbox.jail import ISOLATION
from vlrl.sandbox.processes import Child, ChildWithChildren
from vlrl.scoring.jobs import Job, Jobs
from vlrl.scoring.protocol import Item, dump_item, load_result
from vlrl.scoring.service import Failed, Service
from vlrl.types import Rollout, Row, Score, Status

log = logging.getLogger("vlrl.scoring")

_START_S = 120.0  # for a worker to start and import a task's libraries, on a loaded machine
_MOST_WAITING = 10_000
_MOST_SCORED = 2_000  # items after which a worker is replaced, so that memory leaks of libraries do not add up

_MOST_QUESTIONS = 16  # of one response

Key = tuple[int, int]


class Scorer:
    """A pool of scoring workers; a context manager. A thread of this process serves each worker.

    task_folders: as for `load_task`; timeout_s: limit for one verify, from its start in the worker; memory_mb: a worker's address
    space; timeouts_s: limits of single tasks; at_a_time: workers that a task may use at once, for tasks with such a limit.
    isolation: how workers run a response's code, if not as VLRL_ISOLATION says (see vlrl.sandbox.jail). services: by name, those
    that verifiers may ask; the pool closes them.
    Attributes: folders, the absolute task folders; latencies, by task the seconds of each verify in the last `collect`.
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
        isolation: str = "",
        services: Mapping[str, Service] = MappingProxyType({}),
    ):
        self.latencies: dict[str, list[float]] = {}
        self.folders = [str(Path(folder).resolve()) for folder in task_folders]
        self._timeout_s = timeout_s
        self._timeouts_s = timeouts_s
        # A task's items start in order, so each result or reply comes at most this long after the previous one.
        longest_s = max((service.longest_s for service in services.values()), default=0.0)
        self._patience_s = 2 * (_START_S + max([timeout_s, *timeouts_s.values()])) + longest_s
        self._isolation = {ISOLATION: isolation} if isolation else {}
        self._services = services
        self._answered = 0  # questions
        self._limits = {resource.RLIMIT_AS: memory_mb << 20, resource.RLIMIT_CORE: 0}
        self._pending: dict[Key, Job] = {}
        self._jobs_by_item: dict[tuple[str, bytes], Job] = {}
        self._jobs = Jobs(_MOST_WAITING, at_a_time)
        self._threads = [Thread(target=self._serve, name=f"scoring {number}", daemon=True) for number in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, rollout: Rollout, task: str, row: Row, *, file: str = "") -> None:
        """Queues a rollout's response; `collect` returns its score under (slot, sample). Waits only if the queue is full.

        file: the task file's stem, if it differs from the task's name in the run.

        A score depends only on the response and the row, so equal responses to a row are scored once and share the score.
        """
        key = (rollout.slot, rollout.sample)
        assert key not in self._pending, f"rollout {key} is submitted twice"
        item = Item(task=file or task, row=row, response=rollout.text)
        line = dump_item(item)
        if (task, line) not in self._jobs_by_item:
            job = self._jobs_by_item[task, line] = Job(item=item, task=task, line=line)
            with self._report_if_late(job, key):
                self._jobs.put(job, self._patience_s)
        self._pending[key] = self._jobs_by_item[task, line]

    def collect(self, tick: Callable[[], None] = lambda: None) -> dict[Key, Score]:
        """Waits for all scores since the last call; returns {(slot, sample): score} in the order of submission.

        tick: called after each score.

        Raises RuntimeError with the task and row if a score is missing long after its deadline, which is a bug in this pool.
        """
        scores: dict[Key, Score] = {}
        latencies = defaultdict(list)
        for key, job in self._pending.items():
            with self._report_if_late(job, key):
                scores[key], seconds = self._wait(job)
            if not math.isnan(seconds):
                latencies[job.task].append(seconds)
            tick()
        self._pending, self._jobs_by_item = {}, {}
        self.latencies = dict(latencies)
        return scores

    def close(self) -> None:
        """Drops the waiting items, waits for the running ones up to their deadlines, and stops the workers and the services."""
        self._jobs.close()
        for service in self._services.values():
            service.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, job: Job) -> tuple[Score, float]:
        """The job's result. Raises TimeoutError if none comes in time, and meanwhile no service answers any question."""
        while True:
            answered = self._answered
            try:
                return job.result.result(self._patience_s)
            except TimeoutError:
                if self._answered == answered:
                    raise

    @contextmanager
    def _report_if_late(self, job: Job, key: Key) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise RuntimeError(f"scoring of {_name(job)}, rollout {key}, gave no score in {self._patience_s:.0f} s") from None

    def _serve(self) -> None:
        """Runs jobs one by one in one worker until the pool is closed. Each thread of the pool runs this."""
        worker: Child | None = None
        scored = 0
        while job := self._jobs.take():
            try:
                worker, result, seconds = self._verify(job, worker)
                if isinstance(result, Question):
                    self._ask(result, replace(job, seconds=job.seconds + seconds))
                else:
                    job.result.set_result((result, job.seconds + seconds))
            except BaseException as error:  # a bug in this pool: `collect` raises it, and this thread continues
                job.result.set_exception(error)
            self._jobs.done(job)
            scored = scored + 1 if worker else 0
            if worker and scored == _MOST_SCORED:
                worker.kill()
                worker, scored = None, 0
        if worker:
            worker.kill()

    def _ask(self, question: Question, job: Job) -> None:
        """Asks a service; the job then returns to the queue with the reply, or gets a status if there is none."""
        service = self._services.get(question.service)
        if service is None or len(job.item.replies) == _MOST_QUESTIONS:
            if service:
                detail = f"verify asks more than {_MOST_QUESTIONS} questions for one response"
            else:
                known = ", ".join(self._services) or "none"
                detail = (
                    f"verify asks the service {question.service!r}, and the run file's scoring names {known}; see docs/judges.md"
                )
            job.result.set_result((Score(reward=0.0, status=Status.ERROR, detail=detail), job.seconds))
            return
        began = time.monotonic()

        def answered(reply: Any) -> None:
            self._answered += 1
            seconds = time.monotonic() - began
            if isinstance(reply, Failed):
                score = Score(reward=0.0, status=reply.status, detail=reply.detail)
                job.result.set_result((score, job.seconds + seconds))
            else:
                self._jobs.put_back(job.with_reply(question.key, reply, seconds))

        service.put(question, answered)

    def _verify(self, job: Job, worker: Child | None) -> tuple[Child | None, Score | Question, float]:
        """Returns the worker, None if it was killed, the score or a question, and the seconds, nan if verify did not start."""
        timeout_s = self._timeouts_s.get(job.task, self._timeout_s)
        began = math.nan
        try:
            worker = worker or self._start_worker()
            worker.send(job.line)
            worker.receive(time.monotonic() + _START_S)
            began = time.monotonic()
            result = load_result(worker.receive(began + timeout_s))
        except (EOFError, OSError, ValueError) as error:  # OSError: TimeoutError, BrokenPipeError, no more processes
            exit_code = worker.kill() if worker else None
            worker = None
            result = _failure(error, exit_code, None if math.isnan(began) else timeout_s)
            log.warning("scoring of %s: %s; its worker is replaced", _name(job), result.detail)
        return worker, result, time.monotonic() - began

    def _start_worker(self) -> Child:
        # One thread per worker: each thread of a numerical library reserves address space, and the trainer needs the cores.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        env = {**os.environ, **threads, **self._isolation, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return ChildWithChildren([sys.executable, "-m", "vlrl.scoring.worker", *self.folders], limits=self._limits, env=env)


def _failure(error: Exception, exit_code: int | None, timeout_s: float | None) -> Score:
    """The score of an item whose worker failed. exit_code: None if no worker started; timeout_s: None before verify began."""
    status = Status.ERROR
    if isinstance(error, TimeoutError) and timeout_s:
        status, detail = Status.TIMEOUT, f"verify returned no score in {timeout_s} s"
    elif isinstance(error, TimeoutError):
        detail = f"the task was not loaded in {_START_S} s"
    elif exit_code is None:
        detail = f"the worker did not start: {error}"
    elif isinstance(error, ValueError):
        detail = f"unreadable reply: {error}"
    else:
        ending = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
        detail = f"the worker ended with {ending}"
    return Score(reward=0.0, status=status, detail=detail)


def _name(job: Job) -> str:
    return f"task {job.task!r}, row {job.item.row.key!r}"

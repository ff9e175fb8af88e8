"""Queues items for scoring. The next item is the earliest one whose task may use another worker."""

from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from threading import Condition
from typing import Any

from vlrl.scoring.protocol import Item, dump_item
from vlrl.types import Score


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An item to score, its task's name in the run, and its line in the protocol.

    result: the score and the seconds it took. seconds: that its verifier and its questions have taken so far.
    """

    item: Item
    task: str
    line: bytes
    result: Future[tuple[Score, float]] = field(default_factory=Future)
    seconds: float = 0.0

    def with_reply(self, key: str, reply: Any, seconds: float) -> "Job":
        """The same job, with a service's reply to its verifier's question, `seconds` later."""
        item = replace(self.item, replies={**self.item.replies, key: reply})
        return replace(self, item=item, line=dump_item(item), seconds=self.seconds + seconds)


class Jobs:
    """A bounded queue. One thread fills it, and one thread per worker empties it.

    most: items that may wait; at_a_time: workers that a task may use at once, for tasks with such a limit.
    """

    def __init__(self, most: int, at_a_time: Mapping[str, int]):
        self._most = most
        self._at_a_time = at_a_time
        self._waiting: deque[Job] = deque()
        self._running: Counter[str] = Counter()
        self._closed = False
        self._changed = Condition()

    def put(self, job: Job, patience_s: float) -> None:
        """Adds a job; waits if the queue is full. Raises TimeoutError if it stays full for patience_s seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._waiting) < self._most, patience_s):
                raise TimeoutError
            self._waiting.append(job)
            self._changed.notify_all()

    def put_back(self, job: Job) -> None:
        """Adds a job that had been taken, as the next one of its task, without waiting."""
        with self._changed:
            if not self._closed:
                self._waiting.appendleft(job)
                self._changed.notify_all()

    def take(self) -> Job | None:
        """Waits for a job that may run now; it counts as running until `done`. Returns None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._next() is not None)
            number = self._next()
            if number is None:
                return None
            job = self._waiting[number]
            del self._waiting[number]
            self._running[job.task] += 1
            self._changed.notify_all()
            return job

    def done(self, job: Job) -> None:
        with self._changed:
            self._running[job.task] -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Drops the waiting jobs. From now on, `take` returns None."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _next(self) -> int | None:
        """The position in the queue of the earliest job that may run; None if no job may."""
        tasks = enumerate(job.task for job in self._waiting)
        free = (number for number, task in tasks if self._running[task] < self._at_a_time.get(task, self._running[task] + 1))
        return next(free, None)

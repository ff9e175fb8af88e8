"""Which item is scored next: the earliest whose task has not all the workers yet that it may have at a time."""

from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition

from vlrl.scoring.protocol import Item
from vlrl.types import Score


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An item, its line on the wire, its task's name in the run, and where its score goes with the seconds that it took."""

    item: Item
    task: str
    line: bytes
    verdict: Future[tuple[Score, float]] = field(default_factory=Future)


class Jobs:
    """A bounded queue, fed by one thread and emptied by one thread for each worker.

    most: items that may wait; at_a_time: workers that a task may have, where that is fewer than all.
    """

    def __init__(self, most: int, at_a_time: Mapping[str, int]):
        self._most = most
        self._at_a_time = at_a_time
        self._waiting: deque[Job] = deque()
        self._running: Counter[str] = Counter()
        self._closed = False
        self._changed = Condition()

    def put(self, job: Job, patience_s: float) -> None:
        """Waits for a place. TimeoutError where none came free."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._waiting) < self._most, patience_s):
                raise TimeoutError
            self._waiting.append(job)
            self._changed.notify_all()

    def take(self) -> Job | None:
        """Waits for an item that may be scored now; it counts as running until it is `done`. None: the queue is closed."""
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
        """Drops what waits; each `take` returns None from now on."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _next(self) -> int | None:
        """The place in the queue of the earliest item that may run."""
        tasks = enumerate(job.task for job in self._waiting)
        free = (number for number, task in tasks if self._running[task] < self._at_a_time.get(task, self._running[task] + 1))
        return next(free, None)

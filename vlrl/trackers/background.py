"""Runs a tracker in a thread of its own, so that its service can fail or hang and the run neither ends nor waits.

A tracker is foreign code and never the record: whatever it raises, its copy ends with one warning and the run continues without
it. The same holds for one that is many calls behind, and for one that does not end.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrl.trackers.rollout_table import one_group_each
from vlrl.trackers.tracker import Tracker

logger = logging.getLogger(__name__)

_MOST_WAITING = 64  # calls: a step makes one or two
_PATIENCE_S = 60.0  # how long the end of a run waits for the calls that are left


class Background:
    """A tracker that `start` opens in a thread of its own. tables_every: steps between two tables of rollouts; 0 for none."""

    def __init__(self, name: str, start: Callable[[], Tracker], *, tables_every: int, patience_s: float = _PATIENCE_S) -> None:
        self._name, self._start, self._tables_every, self._patience_s = name, start, tables_every, patience_s
        self._open()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._do(lambda tracker: tracker.step(step, metrics))

    def rollouts(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Passes on one group of each task, with a gradient if the task has one, every tables_every steps."""
        if self._tables_every and step % self._tables_every == 0:
            shown = one_group_each(lines)
            self._do(lambda tracker: tracker.rollouts(step, shown))

    def summary(self, values: Mapping[str, Any]) -> None:
        self._do(lambda tracker: tracker.summary(values))

    def restart(self) -> None:
        """A tracker that failed gets another chance."""
        self.close()
        self._open()

    def close(self) -> None:
        self._do(None)
        self._thread.join(self._patience_s)
        if self._thread.is_alive():
            self._fail(f"it did not finish within {self._patience_s:g} s")

    def _open(self) -> None:
        self._calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(_MOST_WAITING)
        self._is_off = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(self._calls, self._is_off), name=self._name, daemon=True)
        self._thread.start()

    def _do(self, call: Callable[[Tracker], None] | None) -> None:
        if self._is_off.is_set():
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._fail(f"it is {_MOST_WAITING} calls behind")

    def _work(self, calls: queue.Queue[Callable[[Tracker], None] | None], is_off: threading.Event) -> None:
        try:
            tracker = self._start()
            while not is_off.is_set() and (call := calls.get()):
                call(tracker)
            tracker.close()
        except Exception as error:  # foreign code, which fails in its own ways: no network, no key, a dead service process
            if not is_off.is_set():
                self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        self._is_off.set()
        logger.warning("%s failed and is off for the rest of the run (%s)", self._name, reason)

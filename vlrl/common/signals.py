"""Stops commands on SIGINT and SIGTERM: they print one sentence and exit with 128 + the signal's number, as shells expect."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised when SIGINT or SIGTERM arrives. said: what was saved and how to continue; empty if nothing was saved."""

    def __init__(self, number: int, said: str = "") -> None:
        super().__init__("; ".join(filter(None, [f"stopped by {signal.Signals(number).name}", said])))
        self.number, self.said = number, said

    @property
    def exit_code(self) -> int:
        """143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.number


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted in this block. Has no effect outside of the main thread."""
    if current_thread() is not main_thread():
        yield
        return
    previous = {number: signal.signal(number, _raise) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


class Stopped(Exception):  # noqa: N818 (a request, not an error)
    """A stop was requested during sampling; this round's samples are discarded."""


class StopSignal:
    """Records SIGTERM and SIGINT, so that the loop can stop between two pieces of work. `close` restores the old handlers.

    One rank may get a signal before the others do, so the ranks must agree before they stop.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self.number = int(signal.SIGTERM)
        """The number of the first signal; SIGTERM if another rank received it."""
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}

    @property
    def requested(self) -> bool:
        return self._since is not None

    def grace_over(self, grace_s: float) -> bool:
        """Whether the first signal came more than grace_s seconds ago."""
        return self._since is not None and time.monotonic() - self._since > grace_s

    def end_sampling(self, ranks_per_engine: int) -> None:
        """Raises Stopped after a signal, unless tensor-parallel peers would wait for this rank."""
        if self.requested and ranks_per_engine == 1:
            raise Stopped

    def close(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since, self.number = time.monotonic(), number

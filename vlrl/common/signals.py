"""A command that a signal stops: it ends with 128 + the signal's number, as a shell expects, after one sentence."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised where SIGINT or SIGTERM arrives. said: what was kept and what goes on; empty where nothing is kept."""

    def __init__(self, number: int, said: str = "") -> None:
        super().__init__("; ".join(filter(None, [f"stopped by {signal.Signals(number).name}", said])))
        self.number, self.said = number, said

    @property
    def exit_code(self) -> int:
        """143 for SIGTERM, 130 for SIGINT."""
        return 128 + self.number


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted in this block; elsewhere than in the main thread nothing changes."""
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
    """The run was asked to stop while it was sampling; what was sampled in this round is dropped."""


class StopSignal:
    """Notes SIGTERM and SIGINT for the loop to act on between two pieces of work; `close` gives the signals back.

    A rank may be told before its peers are: they must agree before they stop.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self.number = int(signal.SIGTERM)
        """Of the first signal; SIGTERM where it was another rank's."""
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}

    @property
    def requested(self) -> bool:
        return self._since is not None

    def grace_over(self, grace_s: float) -> bool:
        """Whether the first signal came more than grace_s seconds ago."""
        return self._since is not None and time.monotonic() - self._since > grace_s

    def end_sampling(self, tensor_parallel: int) -> None:
        """Raises Stopped after a signal, where no tensor-parallel neighbour would be left waiting."""
        if self.requested and tensor_parallel == 1:
            raise Stopped

    def close(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._since is None:
            self._since, self.number = time.monotonic(), number

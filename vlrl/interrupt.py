"""A command that a signal stops: it ends with 128 + the signal's number, as a shell expects, after one sentence."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised where SIGINT or SIGTERM arrives. said: what was kept and what goes on, once somebody knows it."""

    def __init__(self, number: int, said: str = "the same command goes on with what was kept") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; {said}")
        self.number = number

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

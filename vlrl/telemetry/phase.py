"""What this process does now. Whatever announces, counts or times a piece of work says so here; the heartbeat reads it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

WAITING = "waiting for other ranks"


@dataclass(slots=True, eq=False)
class Phase:
    """A piece of work. done, total: of a counted one; before: what was done when it began; since: its start, time.monotonic."""

    name: str
    done: int = 0
    total: int | None = None
    before: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end at the rate so far; None if that is not known."""
        counted = self.done - self.before
        if self.total is None or counted <= 0:
            return None
        return (time.monotonic() - self.since) / counted * (self.total - self.done)


_phases = [Phase("Starting")]  # those that enclose others come first
reports: list[Callable[[], list[str]]] = []
"""What other processes do for this one, such as replicas of the engine: each returns a line for every such process."""


def begin(name: str) -> None:
    """What the process does from now on, between the phases that `within` encloses."""
    _phases[0] = Phase(name)


@contextmanager
def within(name: str, *, done: int = 0, total: int | None = None) -> Iterator[Phase]:
    """Encloses a phase; the caller counts on in its `done`."""
    phase = Phase(name, done=done, total=total, before=done)
    _phases.append(phase)
    try:
        yield phase
    finally:
        _phases.remove(phase)


def current() -> Phase:
    """The innermost phase."""
    return _phases[-1]


def counted() -> Phase | None:
    """The outermost phase that counts towards a total, such as a run's steps."""
    return next((phase for phase in tuple(_phases) if phase.total is not None), None)


def describe() -> str:
    """
    >>> with within("Training", done=2, total=9), within("generate"):
    ...     describe()
    'Training 2/9, generate'
    """
    phases = tuple(_phases)
    outer = next((phase for phase in reversed(phases) if phase.total is not None), None)
    inner = [phase.name for phase in phases[-2:] if phase.total is None and phase is not phases[0]]
    inner = inner if phases[-1].name == WAITING else inner[-1:]
    names = [f"{outer.name} {outer.done}/{outer.total}"] if outer else []
    return ", ".join(names + inner) or phases[0].name

"""Seconds of each named piece of a step, and percentiles."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from vlrl.telemetry import phase


@dataclass(slots=True)
class Clock:
    """Seconds of each named piece of a step. synchronize: what to wait for at a piece's end, such as an accelerator's queue.

    is_phase: whether a piece counts as what the process does now; not in a thread beside its main work.
    """

    synchronize: Callable[[], None] = lambda: None
    is_phase: bool = True
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with phase.within(name.removeprefix("time/")) if self.is_phase else nullcontext():
            yield
            self.synchronize()
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Adds seconds that were measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of them do not exceed, nan without any."""
    ordered = sorted(values) or [math.nan]
    return ordered[(len(ordered) - 1) * percent // 100]

"""Seconds of each named piece of a step, and percentiles."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from vlrl.telemetry import phase


@dataclass(slots=True)
class Clock:
    """Seconds of each named piece of a step. settle: what to wait for at a piece's end, such as an accelerator's queue."""

    synchronize: Callable[[], None] = lambda: None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        with phase.within(name.removeprefix("time/")):
            yield
            self.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of them do not exceed, nan without any."""
    ordered = sorted(values) or [math.nan]
    return ordered[(len(ordered) - 1) * percent // 100]

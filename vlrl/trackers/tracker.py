"""The interface of trackers, which keep a copy of a run's log elsewhere, such as in wandb."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tracker(Protocol):
    """Gets what the run's files get, in a thread of its own (background.py). It may raise, and it may take its time."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step's metrics by name."""

    def rollouts(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Some of a step's rollouts, one mapping each: a line of rollouts.jsonl."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """The run's result, as in summary.json."""

    def close(self) -> None:
        """Ends the copy."""

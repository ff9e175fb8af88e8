"""The interface of trackers, which keep a copy of a run's log elsewhere, such as in wandb."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tracker(Protocol):
    """Gets what the run's files get. The files are the record: a tracker whose service fails must not raise, or the run ends."""

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step's metrics by name."""

    def rollouts(self, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """A step's rollouts, one mapping each: a line of rollouts.jsonl."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """The run's result, as in summary.json."""

    def restart(self) -> None:
        """Ends this copy and begins another: the run continues from an earlier step than its last."""

    def close(self) -> None:
        """Ends the copy."""

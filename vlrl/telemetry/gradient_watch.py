"""Says when rewards give no gradient: a group whose rewards are all equal teaches nothing, and a task may have no other."""

import math
from collections import Counter

from vlrl.telemetry.metrics import Key, Metrics

STEPS = 10  # in a row without a gradient, after which a task is named


class GradientWatch:
    """Fed with each step's metrics, in order."""

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()

    def see(self, step: int, metrics: Metrics) -> list[str]:
        """A sentence for the first step in a row without any gradient, and one for each task without one in ten steps."""
        without = {key.task: value == 1.0 for key, value in metrics.items() if key.name == "rollout/no_gradient"}
        everything = {"": all(without.values())} if without else {}
        for task, has_none in (without | everything).items():
            self._in_a_row[task] = self._in_a_row[task] + 1 if has_none else 0
        said = [f"step {step} had no gradient: in each group all rewards were equal"] if self._in_a_row[""] == 1 else []
        for task in without:
            if self._in_a_row[task] == STEPS:
                rewards = _rewards(metrics.get(Key("reward", task)))
                said.append(f"task {task} has had no gradient in {STEPS} steps: {rewards}")
        return said


def _rewards(mean: float | None) -> str:
    """What the rewards of groups without a gradient were."""
    if mean is None or not math.isfinite(mean):
        return "no rollout has a verdict"
    return f"all rewards are {mean:g}" if mean in (0, 1) else f"all rewards of a group are equal, {mean:.3f} on average"

"""Says when rewards give no gradient: a group whose rewards are all equal teaches nothing, and a task may have no other."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

STEPS = 10  # in a row without a gradient, after which a task is named
_SHARE = "rollout/no_gradient/"


class GradientWatch:
    """Fed with each step's metrics, in order."""

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()

    def see(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """A sentence for the first step in a row without any gradient, and one for each task without one in ten steps."""
        without = {name.removeprefix(_SHARE): value == 1.0 for name, value in metrics.items() if name.startswith(_SHARE)}
        everything = {"": all(without.values())} if without else {}
        for task, has_none in (without | everything).items():
            self._in_a_row[task] = self._in_a_row[task] + 1 if has_none else 0
        said = [f"step {step} had no gradient: in each group all rewards were equal"] if self._in_a_row[""] == 1 else []
        for task in without:
            if self._in_a_row[task] == STEPS:
                said.append(f"task {task} has had no gradient in {STEPS} steps: {_rewards(metrics.get(f'reward/{task}'))}")
        return said


def _rewards(mean: Any) -> str:
    """What the rewards of groups without a gradient were."""
    if not isinstance(mean, int | float) or not math.isfinite(mean):
        return "no rollout has a verdict"
    return f"all rewards are {mean:g}" if mean in (0, 1) else f"all rewards of a group are equal, {mean:.3f} on average"

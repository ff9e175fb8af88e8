"""Counts rollouts without a score, task by task: warns of the first, and stops the run if one task has too many.

A task is judged by its latest prompts rather than by one step, in which a small task has few, so that a single bad row does not
end a long run. Tasks are never added up: a verifier that fails on half of a small task would vanish among the others.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vlrl.distributed.ranks import Ranks
from vlrl.types import Group

logger = logging.getLogger(__name__)

_LATEST = 64  # prompts
_FEWEST = 3  # prompts with such rollouts, below which no run is stopped


@dataclass(kw_only=True, slots=True)
class Counts:
    """One task's counts: each prompt's planned rollouts and those without a score, and how often each reason was given."""

    prompts: list[tuple[int, int]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


class Unscored:
    """Watches the groups of one step after another, or of one evaluation."""

    def __init__(self) -> None:
        self._latest: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._said: set[str] = set()

    def see(self, groups: Sequence[Group], ranks: Ranks, *, most: float, where: str) -> None:
        """RuntimeError if more than a share `most` of a task's latest rollouts has no score. All ranks call it, and raise."""
        faults = []
        for task, counts in sorted(_gathered(groups, ranks).items()):
            latest = self._latest[task] = [*self._latest[task], *counts.prompts][-max(_LATEST, len(counts.prompts)) :]
            planned, failed = map(sum, zip(*latest, strict=True))
            failing = sum(bool(each) for _, each in latest)
            counted = f"{where}: {failed} of the last {planned} rollouts of task {task} have no verdict"
            why = f"most often: {counts.reasons.most_common(1)[0][0]}" if counts.reasons else ""
            if failed > most * planned and failing >= _FEWEST:
                faults.append(
                    f"{counted}, more than scoring.max_failed_share {most:.0%}; {why}. Fix the verifier "
                    "and start under another name, or raise the bound and resume"
                )
            elif counts.reasons and task not in self._said and ranks.is_first:
                logger.warning("%s and count in no average; %s", counted, why)
            if counts.reasons:
                self._said.add(task)
        if faults:
            raise RuntimeError("\n".join(faults))


def _gathered(groups: Sequence[Group], ranks: Ranks) -> Mapping[str, Counts]:
    """All ranks' counts by task. A bad row counts as all of its rollouts."""
    mine: dict[str, Counts] = defaultdict(Counts)
    for group in groups:
        faults = [f"{each.score.status}, {each.score.detail}" for each in group.samples if not each.is_scored]
        if not group.samples:
            faults = ["rows from which no prompt can be made, named above"] * group.prompt.group_size
        mine[group.prompt.task].prompts.append((group.prompt.group_size, len(faults)))
        mine[group.prompt.task].reasons.update(faults)
    total: dict[str, Counts] = defaultdict(Counts)
    for part in ranks.gather(dict(mine)):
        for task, counts in part.items():
            total[task].prompts += counts.prompts
            total[task].reasons += counts.reasons
    return total

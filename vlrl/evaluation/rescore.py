"""Scores a run's recorded rollouts again, with the task files and verifiers as they are now.

It shows what a changed verifier does to answers that a model really gave.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vlrl.common.jsonl import read_jsonl
from vlrl.config import TaskConfig
from vlrl.data.shards import Dataset
from vlrl.inputs import open_each, spread, train_rows
from vlrl.scoring import Scorer
from vlrl.types import Rollout, Row, Score, Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescored:
    """A line of rollouts.jsonl, and the score that its response gets now."""

    line: dict[str, Any]
    score: Score

    @property
    def differs(self) -> bool:
        """Whether the status, or the reward of a rollout that has one, is another."""
        if self.line["status"] != self.score.status:
            return True
        return self.score.status is Status.OK and abs(self.line["verifier_reward"] - self.score.reward) > 1e-6


def recorded(folder: Path, tasks: Mapping[str, TaskConfig], most: int) -> list[dict[str, Any]]:
    """The lines of the run's rollouts.jsonl that belong to these tasks; at most `most`, evenly spread.

    Raises ValueError if there is none.
    """
    path = folder / "rollouts.jsonl"
    lines = [line for line in read_jsonl(path) if line["task"] in tasks]
    if not lines:
        raise ValueError(f"{path} has no rollout of {', '.join(tasks)}; a run writes its rollouts after each step")
    return [lines[place] for place in spread(len(lines), most)]


def rescore(
    lines: list[dict[str, Any]], tasks: Mapping[str, TaskConfig], scorer: Scorer, tick: Callable[[], None]
) -> list[Rescored]:
    """The new score of each recorded rollout, in order. tick: called after each.

    Raises ValueError if a data set no longer has a rollout's row.
    """
    datasets = open_each({name: partial(train_rows, name, tasks[name]) for name in {line["task"] for line in lines}})
    for slot, line in enumerate(lines):
        text, end = line["response"], line["finish_reason"]
        rollout = Rollout(slot=slot, sample=0, tokens=(), logprobs=(), weight_versions=(), finish_reason=end, text=text)
        row = replace(_row(datasets[line["task"]], line), seen=line.get("seen", ()))
        file = tasks[line["task"]].task or ""
        scorer.submit(rollout, line["task"], row, file=file)
    scores = scorer.collect(tick)
    return [Rescored(line=line, score=scores[slot, 0]) for slot, line in enumerate(lines)]


def _row(dataset: Dataset, line: Mapping[str, Any]) -> Row:
    number = int(line["row"])
    row = dataset[number] if number < len(dataset) else None
    if row is None or row.answer != line["answer"]:
        raise ValueError(
            f"{dataset.folder} is not the data set of this run: row {line['row']} has the answer "
            f"{row and row.answer!r}, and {line['answer']!r} in the run; build it again as it was"
        )
    return row

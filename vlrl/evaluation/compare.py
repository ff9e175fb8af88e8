"""`vlrl compare`: compares two evaluations row by row. It reads the files of `vlrl eval` and loads no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.common.jsonl import read_jsonl
from vlrl.common.suggest import nearest_folder
from vlrl.stats import Difference, difference
from vlrl.types import RowRewards

SUMMARY = "evaluation.json"
_ALIKE = ("data", "task_file", "samples", "temperature", "top_p", "top_k", "max_new_tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedEvaluation:
    """A task's evaluation as its file has it.

    origin: what the rewards depend on, such as the data and the sampling settings; means: each row's mean reward; failed: the
    number of rollouts without a verdict.
    """

    origin: dict[str, Any]
    means: dict[str, float]
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A task's difference, second minus first. failed: each evaluation's rollouts without a verdict, which are not in it."""

    difference: Difference
    failed: tuple[int, int]


def compared(first: Path, second: Path) -> dict[str, Comparison]:
    """Compares two evaluations by task, over the rows that both have. Leaves out tasks that only one of them has.

    Raises ValueError if a folder holds no evaluation, or if the two differ in data, verifier or sampling settings.
    """
    before, after = _read(first), _read(second)
    found = {}
    for task in (task for task in before if task in after):
        mine, theirs = before[task], after[task]
        for key in _ALIKE:
            if mine.origin.get(key) != theirs.origin.get(key):
                raise ValueError(
                    f"task {task}: {key} is {mine.origin.get(key)} in {first} but {theirs.origin.get(key)} in {second}; "
                    "compare evaluations that were made with the same settings"
                )
        both = sorted(mine.means.keys() & theirs.means.keys())
        change = difference([mine.means[row] for row in both], [theirs.means[row] for row in both])
        found[task] = Comparison(difference=change, failed=(mine.failed, theirs.failed))
    if not found:
        raise ValueError(
            f"the two evaluations have no task in common: {first} has {', '.join(before)}, {second} has {', '.join(after)}; "
            "evaluate the same tasks"
        )
    return found


def regressed(comparisons: Mapping[str, Comparison], standard_errors: float) -> list[str]:
    """The tasks that got worse by more than this many standard errors."""
    return [task for task, found in comparisons.items() if found.difference.standard_errors < -standard_errors]


def _read(folder: Path) -> dict[str, SavedEvaluation]:
    """Reads an evaluation, by task. Raises ValueError if the folder holds none."""
    if not (folder / SUMMARY).exists():
        raise ValueError(_no_evaluation(folder))
    read = {}
    for path in sorted(folder.glob("*.jsonl")):
        origin, *rows = read_jsonl(path)
        rewards = [RowRewards(**row) for row in rows]
        means = {row.row: row.mean for row in rewards if row.rewards}
        read[path.stem] = SavedEvaluation(origin=origin, means=means, failed=sum(row.failed for row in rewards))
    return read


def _no_evaluation(folder: Path) -> str:
    near = nearest_folder(folder, with_file=SUMMARY)
    if not folder.is_dir():
        return f"there is no folder {folder}; {near}Give the OUT folder of a vlrl eval"
    if (folder / "config.yaml").exists():
        return (
            f"{folder} is a run, not an evaluation; {near}Evaluate its model and give that OUT folder: "
            f"vlrl eval {folder}/config.yaml model={folder}/model --out {folder}/eval"
        )
    return f"{folder} holds no finished evaluation: it has no {SUMMARY}; {near}Give the OUT folder of a vlrl eval that finished"

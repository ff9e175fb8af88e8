"""`vlrl compare`: two evaluations, row by row. It reads what `vlrl eval` wrote, and needs no model."""

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
class Kept:
    """A task's evaluation as it was kept: what it depends on, each row's mean, and the rollouts without a verdict."""

    of: dict[str, Any]
    means: dict[str, float]
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Of a task: second minus first, and the rollouts of each that have no verdict and so no part in it."""

    difference: Difference
    failed: tuple[int, int]


def compared(first: Path, second: Path) -> dict[str, Comparison]:
    """By task, row by row of the rows that both have; tasks that only one has are left out.

    ValueError where a folder holds no evaluation, or the two were made on other rows, samples or verifiers.
    """
    before, after = _read(first), _read(second)
    found = {}
    for task in (task for task in before if task in after):
        mine, theirs = before[task], after[task]
        for key in _ALIKE:
            if mine.of.get(key) != theirs.of.get(key):
                raise ValueError(
                    f"task {task}: {key} was {mine.of.get(key)} in {first}, {theirs.of.get(key)} in {second}; "
                    "compare like with like"
                )
        both = sorted(mine.means.keys() & theirs.means.keys())
        change = difference([mine.means[row] for row in both], [theirs.means[row] for row in both])
        found[task] = Comparison(difference=change, failed=(mine.failed, theirs.failed))
    if not found:
        raise ValueError(
            f"no task is in both evaluations: {first} has {', '.join(before)}, {second} has {', '.join(after)}; "
            "evaluate the same tasks"
        )
    return found


def regressed(comparisons: Mapping[str, Comparison], standard_errors: float) -> list[str]:
    """The tasks that got worse by more than this many standard errors."""
    return [task for task, found in comparisons.items() if found.difference.standard_errors < -standard_errors]


def _read(folder: Path) -> dict[str, Kept]:
    """By task. ValueError where the folder holds no evaluation."""
    if not (folder / SUMMARY).exists():
        raise ValueError(_no_evaluation(folder))
    read = {}
    for path in sorted(folder.glob("*.jsonl")):
        of, *rows = read_jsonl(path)
        rewards = [RowRewards(**row) for row in rows]
        means = {row.row: row.mean for row in rewards if row.rewards}
        read[path.stem] = Kept(of=of, means=means, failed=sum(row.failed for row in rewards))
    return read


def _no_evaluation(folder: Path) -> str:
    near = nearest_folder(folder, with_file=SUMMARY)
    if not folder.is_dir():
        return f"there is no folder {folder}; {near}Give the OUT of a vlrl eval"
    if (folder / "config.yaml").exists():
        return (
            f"{folder} is a run, not an evaluation; {near}Give the OUT of a vlrl eval of its model: "
            f"vlrl eval {folder}/config.yaml model={folder}/model --out {folder}/eval"
        )
    return f"{folder} holds no finished evaluation: it has no {SUMMARY}; {near}Give the OUT of a vlrl eval that came to its end"

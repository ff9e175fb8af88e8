"""Checks complete data sets: file hashes, pictures, each row's own answer, and rows that are in both train and eval."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlrl.data.build import gold_faults
from vlrl.data.row_checks import is_train_eval_pair, picture_fault, shared_pictures, shared_rows
from vlrl.data.shards import MANIFEST, Dataset
from vlrl.scoring import Scorer
from vlrl.tasks import load_task


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A data set's check. faults: one sentence each, the first few of each kind; summary: the counts in one line."""

    faults: list[str]
    summary: str


def opened(folder: Path) -> list[Dataset]:
    """Opens the data set in the folder, or a build's train and eval. Raises ValueError if the folder has neither."""
    parts = [folder / name for name in ("train", "eval")]
    if not (folder / MANIFEST).exists() and any((part / MANIFEST).exists() for part in parts):
        return [Dataset(part) for part in parts if part.exists()]
    return [Dataset(folder)]


def task_of(datasets: Sequence[Dataset]) -> str:
    """The task that the manifests name. Raises ValueError if they name none or several."""
    tasks = sorted({dataset.manifest.task for dataset in datasets} - {""})
    if len(tasks) != 1:
        named = f"the manifests name {' and '.join(tasks)}" if tasks else "the manifest names no task"
        raise ValueError(f"{datasets[0].folder}: {named}; name the task that verifies the rows with --task")
    return tasks[0]


def check_sets(datasets: Sequence[Dataset], task: str, folders: Sequence[Path], num: int = 3) -> list[Checked]:
    """Checks each data set. num: the number of faults of each kind to list.

    Raises ValueError if a file's hash differs from the manifest's.
    """
    load_task(task, folders)
    with Scorer(folders, 2, 10.0, memory_mb=2048) as scorer:
        return [_check(dataset, task, scorer, num) for dataset in datasets]


def _check(dataset: Dataset, task: str, scorer: Scorer, num: int) -> Checked:
    dataset.verify()
    rows = [dataset[number] for number in range(len(dataset))]
    pictures = [f"row {row.key}: {fault}" for row in rows if (fault := picture_fault(row))]
    answers = [f"row {row.key}: {fault}" for row, fault in zip(rows, gold_faults(task, rows, scorer), strict=True) if fault]
    shared, builds = [], []
    if other := _other_of_the_build(dataset):
        pairs = shared_rows(other, dataset)
        shared = [f"row {rows[n].key}: is also in {other.folder} as row {other[pairs[n]].key}" for n in sorted(pairs)]
        if other.manifest.build != dataset.manifest.build:
            builds = [f"{dataset.folder} and {other.folder} are from different builds; build both again with one command"]
    summary = (
        f"{dataset.folder}: {len(rows)} rows, {len(pictures)} with a picture that cannot be used, "
        f"{len(answers)} with an answer that is not accepted by {task}"
    )
    if answers and dataset.manifest.task not in ("", task):
        summary += f" (the set was built for {dataset.manifest.task})"
    if other:
        summary += f", {len(shared)} that are also in {other.folder}"
        if pictures_there := shared_pictures(other, dataset):
            summary += f"; {pictures_there} with a picture that is there with another question"
    kinds = {
        "a picture that cannot be used": pictures,
        "an answer that is not accepted": answers,
        "a copy in the other set": shared,
    }
    listed = [line for kind, faults in kinds.items() for line in _first(num, faults, kind)]
    return Checked(faults=listed + builds, summary=summary)


def _first(num: int, faults: Sequence[str], kind: str) -> list[str]:
    """The first faults, and a line with the number of the others."""
    more = len(faults) - num
    return [*faults[:num], *([f"and {more} more with {kind}"] if more > 0 else [])]


def _other_of_the_build(dataset: Dataset) -> Dataset | None:
    """The eval set beside a train set, or the train set beside an eval set; None if there is none."""
    for name in {"train", "eval"} - {dataset.folder.name}:
        beside = dataset.folder.parent / name
        if (beside / MANIFEST).exists() and is_train_eval_pair(dataset, other := Dataset(beside)):
            return other
    return None

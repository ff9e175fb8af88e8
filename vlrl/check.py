"""Checks whole data sets: bytes, pictures, each row's own answer, and rows that are in both train and eval."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlrl.build import gold_faults
from vlrl.data.checks import are_of_one_folder, picture_fault, shared_rows
from vlrl.data.shards import MANIFEST, Dataset
from vlrl.scoring import Scorer


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A data set's faults, one sentence each, and their numbers in one line."""

    faults: list[str]
    summary: str


def opened(folder: Path) -> list[Dataset]:
    """The data set in the folder, or the train and eval of a build. ValueError if neither is there."""
    parts = [folder / name for name in ("train", "eval")]
    if not (folder / MANIFEST).exists() and any((part / MANIFEST).exists() for part in parts):
        return [Dataset(part) for part in parts if part.exists()]
    return [Dataset(folder)]


def check_sets(datasets: Sequence[Dataset], task: str, folders: Sequence[Path]) -> list[Checked]:
    """Checks each data set. ValueError: bytes that are not those that were written."""
    with Scorer(folders, 2, 10.0, memory_mb=2048) as scorer:
        return [_check(dataset, task, scorer) for dataset in datasets]


def _check(dataset: Dataset, task: str, scorer: Scorer) -> Checked:
    dataset.verify()
    rows = [dataset[number] for number in range(len(dataset))]
    pictures = [f"row {row.key}: {fault}" for row in rows if (fault := picture_fault(row))]
    answers = [f"row {row.key}: {fault}" for row, fault in zip(rows, gold_faults(task, rows, scorer), strict=True) if fault]
    shared, builds = [], []
    if other := _other_of_the_build(dataset):
        pairs = shared_rows(other, dataset)
        shared = [f"row {rows[n].key}: is also in {other.folder}, as row {other[pairs[n]].key}" for n in sorted(pairs)]
        if other.manifest.build != dataset.manifest.build:
            builds = [f"{dataset.folder} and {other.folder} are of different builds; build both again with one command"]
    summary = (
        f"{dataset.folder}: {len(rows)} rows, {len(pictures)} with a picture that cannot be used, "
        f"{len(answers)} with an answer that is not accepted"
    )
    if other:
        summary += f", {len(shared)} that are also in {other.folder}"
    return Checked(faults=[*pictures, *answers, *shared, *builds], summary=summary)


def _other_of_the_build(dataset: Dataset) -> Dataset | None:
    """The eval beside a train, or the train beside an eval."""
    for name in {"train", "eval"} - {dataset.folder.name}:
        beside = dataset.folder.parent / name
        if (beside / MANIFEST).exists() and are_of_one_folder(dataset, other := Dataset(beside)):
            return other
    return None

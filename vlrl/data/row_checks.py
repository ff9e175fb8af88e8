"""Checks the rows of complete data sets: pictures that cannot be decoded, and evaluation rows that are also training rows."""

import hashlib
from collections.abc import Iterable

from vlrl.data.images import decode_whole_image, image_size, read_image_bytes
from vlrl.data.shards import Dataset, row_identity
from vlrl.types import Row

_SPLITS = {"train", "eval"}


def picture_fault(row: Row) -> str:
    """Why one of the row's pictures cannot be used; empty if all can be used."""
    for place, ref in enumerate(row.images, start=1):
        try:
            decode_whole_image(read_image_bytes(ref))
        except ValueError as error:
            return f"picture {place} of {len(row.images)} cannot be used: {str(error).removeprefix(f'image {ref} ')}"
    return ""


def shared_rows(train: Dataset, held_out: Dataset) -> dict[int, int]:
    """The rows of `held_out` that are also in `train`, as row numbers in both. Equal rows have the same question and image bytes.

    Reads every question, but only the images of rows with equal questions and image sizes.
    """
    numbers: dict[tuple, list[int]] = {}
    for number, row in enumerate(_rows(held_out)):
        numbers.setdefault(_cheap_identity(row), []).append(number)
    shared: dict[int, int] = {}
    for number, row in enumerate(_rows(train)):
        for other in numbers.get(_cheap_identity(row), ()):
            if other not in shared and _identity(held_out[other]) == _identity(row):
                shared[other] = number
    return shared


def shared_pictures(train: Dataset, held_out: Dataset) -> int:
    """The number of rows of `held_out` with a picture that `train` has with another question, which a model may know by heart.

    Reads every picture.
    """
    questions: dict[bytes, set[str]] = {}
    for row in _rows(train):
        for ref in row.images:
            questions.setdefault(_digest(ref), set()).add(row.question)
    return sum(any(questions.get(_digest(ref), set()) - {row.question} for ref in row.images) for row in _rows(held_out))


def check_apart(train: Dataset, held_out: Dataset) -> None:
    """Raises ValueError if the sets share rows. Does not read train and eval of the same build, which never share rows."""
    if train.fingerprint == held_out.fingerprint:
        raise ValueError(
            f"the evaluation would use training data: eval_rows {held_out.folder} has the same rows as {train.folder}; "
            "build separate evaluation rows: vlrl data build RECIPE --out FOLDER writes FOLDER/train and FOLDER/eval"
        )
    builds = train.manifest.build, held_out.manifest.build
    if builds[0] and builds[0] == builds[1]:
        return
    again = "build both again with one command: vlrl data build RECIPE --out FOLDER"
    if is_train_eval_pair(train, held_out) and builds[0] != builds[1]:
        raise ValueError(f"{train.folder} and {held_out.folder} are from different builds, so they may share rows; {again}")
    if shared := shared_rows(train, held_out):
        first = min(shared)
        question = held_out[first].question
        raise ValueError(
            f"{len(shared)} of {len(held_out)} rows of {held_out.folder} are also in {train.folder}, so the evaluation would use "
            f"training data; the first is row {held_out[first].key} ({question!r:.80}); {again}, or remove these rows from "
            f"train: --against {held_out.folder}"
        )


def is_train_eval_pair(one: Dataset, other: Dataset) -> bool:
    """Whether the sets are the train and eval folders inside one build's folder."""
    folders = {one.folder.resolve(), other.folder.resolve()}
    return {folder.name for folder in folders} == _SPLITS and len({folder.parent for folder in folders}) == 1


def _rows(dataset: Dataset) -> Iterable[Row]:
    return (dataset[number] for number in range(len(dataset)))


def _cheap_identity(row: Row) -> tuple:
    return row.question, *map(image_size, row.images)


def _digest(ref: str) -> bytes:
    return hashlib.sha256(read_image_bytes(ref)).digest()


def _identity(row: Row) -> str:
    return row_identity(row.question, [read_image_bytes(ref) for ref in row.images])

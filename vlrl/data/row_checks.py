"""What can be wrong with data sets that are whole: pictures that cannot be decoded, and evaluation rows that are trained on."""

from collections.abc import Iterable

from vlrl.data.images import decode_image, image_size, read_image_bytes
from vlrl.data.shards import Dataset, row_identity
from vlrl.types import Row

_SIDE_BY_SIDE = {"train", "eval"}


def picture_fault(row: Row) -> str:
    """Why a picture of the row cannot be used; empty if all can."""
    for place, ref in enumerate(row.images, start=1):
        try:
            decode_image(read_image_bytes(ref))
        except ValueError as error:
            return f"picture {place} of {len(row.images)} cannot be used: {str(error).removeprefix(f'image {ref}: ')}"
    return ""


def shared_rows(train: Dataset, held_out: Dataset) -> dict[int, int]:
    """Row numbers of `held_out` that are in `train` too, with their number there: the same question and, byte by byte, images.

    Reads each question, and images only where question and sizes are equal.
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


def check_apart(train: Dataset, held_out: Dataset) -> None:
    """ValueError if the one holds rows of the other. Train and eval of one build have none in common, so they are not read."""
    if train.fingerprint == held_out.fingerprint:
        raise ValueError(
            f"the evaluation would be on training data: {held_out.folder} as eval_rows holds the very rows of {train.folder}; "
            "build rows to evaluate on: vlrl data build RECIPE --out FOLDER makes FOLDER/train and FOLDER/eval"
        )
    builds = train.manifest.build, held_out.manifest.build
    if builds[0] and builds[0] == builds[1]:
        return
    again = "build both again with one command: vlrl data build RECIPE --out FOLDER"
    if are_of_one_folder(train, held_out) and builds[0] != builds[1]:
        raise ValueError(f"{train.folder} and {held_out.folder} are of different builds, so rows may be in both; {again}")
    if shared := shared_rows(train, held_out):
        first = min(shared)
        question = held_out[first].question
        raise ValueError(
            f"{len(shared)} of {len(held_out)} rows of {held_out.folder} are in {train.folder} too, so the evaluation would be "
            f"on training data; the first is row {held_out[first].key} ({question!r:.80}); {again}, or leave these rows out of "
            f"train: --against {held_out.folder}"
        )


def are_of_one_folder(one: Dataset, other: Dataset) -> bool:
    """Whether the sets are the train and eval of a build's folder."""
    folders = {one.folder.resolve(), other.folder.resolve()}
    return {folder.name for folder in folders} == _SIDE_BY_SIDE and len({folder.parent for folder in folders}) == 1


def _rows(dataset: Dataset) -> Iterable[Row]:
    return (dataset[number] for number in range(len(dataset)))


def _cheap_identity(row: Row) -> tuple:
    return row.question, *map(image_size, row.images)


def _identity(row: Row) -> str:
    return row_identity(row.question, [read_image_bytes(ref) for ref in row.images])

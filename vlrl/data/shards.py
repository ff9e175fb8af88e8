"""Writes and reads data sets. A data set is a folder with WebDataset tar shards, an index of every member's offset, and a
manifest.

A row KEY is stored as KEY.json (question, answer, meta, response) and its images as KEY.0.png, KEY.1.png, ..., so the webdataset
library can stream the shards. The index makes reading row i one seek and one read. The manifest is written last, in one move, so
a folder with a manifest is a complete data set. Equal rows give equal bytes.

The sets of a build replace the old ones together: all old manifests are removed before the first new one is written. If the
process is killed in between, folders have no manifest; a new train never stays beside an old eval.
"""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from vlrl.common.names import name_fault
from vlrl.common.suggest import nearest_folder
from vlrl.types import Row

INDEX, MANIFEST = "index.jsonl", "manifest.json"
_ASIDE = ".part"
_EXTENSIONS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg"}


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRow:
    """A row to be written into a data set. The fields are those of vlrl.types.Row, without the key.

    images: encoded PNG or JPEG bytes. A recipe may also give paths relative to its source, Pillow images, or images in the hub's
    format; the build encodes them.
    """

    question: str
    answer: str = ""
    images: tuple[Any, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    response: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A data set's description and origin.

    files: {name: {"bytes": ..., "sha256": ...}} for the index and every shard. build: an id that the sets of one build share, and
    sets filtered from them; these sets have no row in common. It is empty for a set that was written alone. task: the task whose
    verifier accepted the rows' own answers; empty if no verifier checked them. recipe_sha256: of the recipe's file when it made
    the rows; empty if no file did. Raises ValueError if no task can have that name.
    """

    name: str
    source: str
    licence: str
    recipe: str
    recipe_version: int
    num_rows: int
    num_images: int
    files: Mapping[str, Mapping[str, Any]]
    build: str = ""
    task: str = ""
    recipe_sha256: str = ""

    def __post_init__(self) -> None:
        if self.task and (fault := name_fault(self.task)):
            raise ValueError(f"the manifest of {self.name}: {fault}")


def write_dataset(
    folder: Path,
    rows: Iterable[NewRow],
    *,
    source: str,
    licence: str,
    recipe: str,
    recipe_version: int,
    build: str = "",
    task: str = "",
    rows_per_shard: int = 1000,
) -> "Dataset":
    """Writes the rows as a data set, replaces the folder's old set, and opens the new one.

    If writing fails, the old set stays unchanged. Raises ValueError for a row that no task can use.
    """
    about = {
        "source": source,
        "licence": licence,
        "recipe": recipe,
        "recipe_version": recipe_version,
        "build": build,
        "task": task,
    }
    with _staged([folder]):
        _stage(folder, rows, about, rows_per_shard)
        _replace([folder])
    return Dataset(folder)


def write_datasets(
    rows: Mapping[Path, Iterable[NewRow]],
    *,
    source: str,
    licence: str,
    recipe: str,
    recipe_version: int,
    task: str = "",
    recipe_sha256: str = "",
) -> dict[Path, "Dataset"]:
    """Like `write_dataset`, for the sets of one build, by folder: replaces either all of them or none."""
    about = {
        "source": source,
        "licence": licence,
        "recipe": recipe,
        "recipe_version": recipe_version,
        "task": task,
        "recipe_sha256": recipe_sha256,
    }
    with _staged(rows):
        manifests = {folder: _stage(folder, of_folder, about, 1000) for folder, of_folder in rows.items()}
        files = [manifest.files for manifest in manifests.values()]
        build = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]
        for folder, manifest in manifests.items():
            _write_manifest(folder, replace(manifest, build=build))
        _replace(rows)
    return {folder: Dataset(folder) for folder in rows}


@contextmanager
def _staged(folders: Iterable[Path]) -> Iterator[None]:
    """Creates a staging folder for each folder's next set, and always removes it at the end."""
    asides = [folder / _ASIDE for folder in folders]
    try:
        for aside in asides:
            shutil.rmtree(aside, ignore_errors=True)  # a killed build may have left one
            aside.mkdir(parents=True)
        yield
    finally:
        for aside in asides:
            shutil.rmtree(aside, ignore_errors=True)


def _stage(folder: Path, rows: Iterable[NewRow], about: Mapping[str, Any], rows_per_shard: int) -> Manifest:
    """Writes a complete data set into the folder's staging folder."""
    aside = folder / _ASIDE
    index: list[dict[str, Any]] = []
    shards: list[str] = []
    remaining = iter(rows)
    while first := next(remaining, None):
        shards.append(f"shard-{len(shards):06d}.tar")
        index += _write_shard(aside / shards[-1], chain([first], islice(remaining, rows_per_shard - 1)), len(index))
    (aside / INDEX).write_text("".join(json.dumps(place) + "\n" for place in index))
    manifest = Manifest(
        name=folder.name,
        num_rows=len(index),
        num_images=sum(len(place["images"]) for place in index),
        files={name: {"bytes": (aside / name).stat().st_size, "sha256": file_sha256(aside / name)} for name in [INDEX, *shards]},
        **about,
    )
    _write_manifest(folder, manifest)
    return manifest


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / _ASIDE / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n")


def _replace(folders: Collection[Path]) -> None:
    """Replaces the old sets with the staged ones. Removes all old manifests before it writes the first new one."""
    for folder in folders:
        (folder / MANIFEST).unlink(missing_ok=True)
    for folder in folders:
        for old in (folder / INDEX, *folder.glob("shard-*.tar")):
            old.unlink(missing_ok=True)
        for new in (folder / _ASIDE).iterdir():
            if new.name != MANIFEST:
                new.replace(folder / new.name)
    for folder in folders:
        (folder / _ASIDE / MANIFEST).replace(folder / MANIFEST)


class Dataset:
    """A data set's rows by number. Images stay in the shard: a Row holds `SHARD.tar#OFFSET+SIZE`, see vlrl.data.images.

    Opening raises ValueError if the manifest or a file is missing, or a file's size differs from the manifest (an incomplete
    copy).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)
        for name, facts in self.manifest.files.items():
            size = (folder / name).stat().st_size if (folder / name).exists() else None
            if size != facts["bytes"]:
                found = "is missing" if size is None else f"has {size} bytes"
                raise ValueError(
                    f"{folder / name} {found}, but the manifest says {facts['bytes']}; copy or build the data set again"
                )
        self._index = [json.loads(line) for line in (folder / INDEX).read_text().splitlines()]

    def __len__(self) -> int:
        return len(self._index)

    @property
    def fingerprint(self) -> str:
        """A short hash of the manifest's file hashes; equal for equal contents."""
        return hashlib.sha256(json.dumps(self.manifest.files, sort_keys=True).encode()).hexdigest()[:16]

    def __getitem__(self, number: int) -> Row:
        place = self._index[number]
        shard = self.folder / place["shard"]
        offset, size = place["row"]
        with shard.open("rb") as file:
            file.seek(offset)
            try:
                fields = json.loads(file.read(size))
            except ValueError:
                raise ValueError(
                    f"{shard}: row {place['key']} is not where the index says; the data set was built anew while it was read, or "
                    "is damaged: build it, or copy it again, and start once more"
                ) from None
        return Row(key=place["key"], images=tuple(f"{shard}#{at}+{length}" for at, length in place["images"]), **fields)

    def verify(self) -> None:
        """Reads all files. Raises ValueError for the first one whose hash differs from the manifest."""
        for name, facts in self.manifest.files.items():
            if file_sha256(self.folder / name) != facts["sha256"]:
                raise ValueError(f"{self.folder / name}: its sha256 is not the manifest's; copy or build the data set again")


def check_row(row: NewRow | Row, key: str) -> None:
    """Raises ValueError for a row that no task can use: it has no answer and no meta, or it has a video."""
    if not row.answer and not row.meta:
        raise ValueError(
            f"row {key} ({row.question!r:.80}) has no answer and no meta, so it cannot be verified; drop it in to_row"
        )
    if "video" in row.meta or "videos" in row.meta:
        raise ValueError(f"row {key} ({row.question!r:.80}) has a video, which is not supported; use its frames as images")


def _write_shard(path: Path, rows: Iterable[NewRow], first_number: int) -> list[dict[str, Any]]:
    places = []
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:

        def add(name: str, content: bytes) -> list[int]:
            member = tarfile.TarInfo(name)  # time and owner stay 0, so that equal rows give equal bytes
            member.size = len(content)
            offset = file.tell() + tarfile.BLOCKSIZE  # past the member's header
            tar.addfile(member, io.BytesIO(content))
            return [offset, len(content)]

        for number, row in enumerate(rows, start=first_number):
            key = f"{number:08d}"
            check_row(row, key)
            text = {"question": row.question, "answer": row.answer, "meta": dict(row.meta), "response": row.response}
            for image in row.images:
                if not isinstance(image, bytes) or not extension_of(image):
                    raise ValueError(f"row {key}: an image starts with {image!r:.20}; it must be PNG or JPEG bytes")
            images = [(f"{key}.{n}.{extension_of(image)}", image) for n, image in enumerate(row.images)]
            places.append(
                {
                    "key": key,
                    "shard": path.name,
                    "row": add(f"{key}.json", json.dumps(text, ensure_ascii=False, sort_keys=True).encode()),
                    "images": [add(name, image) for name, image in images],
                }
            )
    return places


def extension_of(image: bytes) -> str | None:
    """ "png" or "jpg"; None for a format that shards do not hold."""
    return next((extension for magic, extension in _EXTENSIONS.items() if image.startswith(magic)), None)


def row_identity(question: str, images: Iterable[bytes]) -> str:
    """A hash of the question and the image bytes; equal for repeated questions."""
    parts = [question.encode(), *images]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.exists():
        near = nearest_folder(folder, with_file=MANIFEST)
        remedy = f"{near}Or build it" if near else "build it"
        raise ValueError(
            f"{folder} is not a complete data set: it has no {MANIFEST}; {remedy}: vlrl data build RECIPE --out FOLDER, or vlrl "
            "prepare RUN_FILE if the run file's build names it"
        )
    try:
        return Manifest(**json.loads(path.read_text()))
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); build the data set again") from None


def file_sha256(path: Path) -> str:
    """The hash of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

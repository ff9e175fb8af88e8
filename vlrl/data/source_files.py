"""Finds the records of a source that is named in one line.

    hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]     a data set on the hub
    FILE                                           a .csv, .tsv, .json, .jsonl or .parquet file
    FOLDER[:SPLIT]                                 a folder of such files

The split is train if it is left out. A data set on the hub is downloaded at one commit, and read like a folder on disk. Which
files belong to a split is the `datasets` library's choice: by the README's list, or else by names such as test.jsonl.
"""

import glob
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from vlrl.common.suggest import nearest
from vlrl.data.recipe import records
from vlrl.data.sources import SUFFIXES, SourceError

HUB = "hub:"
_ON_HUB = re.compile(r"hub:(?P<place>[^/@:]+/[^/@:]+)(/(?P<config>[^/@:]+))?(@(?P<revision>[^:]+))?(:(?P<split>[^:]+))?")
_ON_DISK = re.compile(r"(?P<place>.+?)(:(?P<split>[\w.-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPLIT = "split:"
_PICTURES = ("*.png", "*.jpg", "*.jpeg", "*.webp", "*.gif", "*.bmp", "*.tif", "*.tiff")
_WAIT_S = 30.0  # for the hub's answer
_NO_LICENCE = "not named by the source"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A data set's place, and which part of it. revision: on the hub, as written, and after `pinned` the commit."""

    place: str
    on_hub: bool = False
    config: str = ""
    revision: str = ""
    split: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the line. Raises SourceError if it has another form."""
        found = _ON_HUB.fullmatch(text) if text.startswith(HUB) else _ON_DISK.fullmatch(text)
        if not found:
            raise SourceError(f"{text!r} is not a source; write hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT], a file or a folder")
        if not text.startswith(HUB) and Path(text).exists():
            return cls(place=text)
        parts = {name: part for name, part in found.groupdict().items() if part}
        return cls(on_hub=text.startswith(HUB), **parts)

    @classmethod
    def parse_held_out(cls, text: str, of: "Source") -> "Source":
        """Reads the source of held-out rows: `split:NAME` of the training rows' own source, or a line as above."""
        return replace(of, split=text.removeprefix(_SPLIT)) if text.startswith(_SPLIT) else cls.parse(text)

    def __str__(self) -> str:
        config, revision = self.config and f"/{self.config}", self.revision and f"@{self.revision}"
        return f"{HUB if self.on_hub else ''}{self.place}{config}{revision}{self.split and f':{self.split}'}"

    @property
    def name(self) -> str:
        return Path(self.place).stem

    @property
    def commit(self) -> str:
        """The revision if it is a commit, which always has the same contents; else empty."""
        return self.revision if _COMMIT.fullmatch(self.revision) else ""


def is_source(text: str) -> bool:
    """Whether the text names the hub, a split or a file of records. A folder may be either a source or a data set."""
    return text.startswith((HUB, _SPLIT)) or Path(text).suffix in SUFFIXES


def pinned(source: Source) -> tuple[Source, str]:
    """The source at its present commit, and its licence. Asks the hub, and raises SourceError if it cannot."""
    if not source.on_hub:
        check_exists(source)
        return source, _NO_LICENCE
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(source.place, revision=source.revision or None, timeout=_WAIT_S)
    except Exception as error:  # the library may raise anything
        raise _unreadable(source, error) from None
    licence = getattr(info.card_data, "license", None) or _NO_LICENCE
    return replace(source, revision=info.sha or ""), licence if isinstance(licence, str) else ", ".join(licence)


def content_hash(source: Source) -> str:
    """A hash of a local source's files of records, and of a folder's README. Raises SourceError if the source is not there."""
    check_exists(source)
    place = Path(source.place)
    files = [place] if place.is_file() else sorted(each for each in place.rglob("*") if _counts(each))
    hashes = [f"{file.relative_to(place)} {_file_hash(file, file.stat().st_size, file.stat().st_mtime_ns)}" for file in files]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def described(source: Source) -> str:
    """The source for a manifest: with the commit that it is pinned to, or a local one with the hash of its contents."""
    return str(source) if source.on_hub else f"{source} (sha256 {content_hash(source)[:16]})"


def _counts(file: Path) -> bool:
    return file.is_file() and (file.suffix in SUFFIXES or file.name == "README.md")


@cache
def _file_hash(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_exists(source: Source) -> None:
    """Raises SourceError if a local source is not there, or is a file of another kind."""
    path = Path(source.place)
    if path.is_dir():
        return
    if not path.exists() or path.suffix not in SUFFIXES:
        near = nearest(str(path), map(str, path.parent.glob("*"))) if not path.exists() else ""
        found = f"{path} is not a file of records" if path.exists() else f"no file or folder {path}"
        raise SourceError(f"{found}; {near}name {HUB}OWNER/NAME, a folder, or a file that ends in {', '.join(SUFFIXES)}")
    if source.split:
        raise SourceError(f"{source}: a file has no splits; leave out :{source.split}")


def records_of(source: Source) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The records of a source, each with the folder of its file. Raises SourceError if a file cannot be read."""
    for file in _files_of(source):
        for number, record in enumerate(records(str(file), "", split="train"), start=1):
            if not isinstance(record, dict):
                raise SourceError(f"{file}: record {number} is {record!r:.60}; each record must be an object with named columns")
            yield file.parent, record


def _files_of(source: Source) -> list[Path]:
    """The files with the records of a source's split. Downloads those of a data set on the hub, and the pictures beside them."""
    if not source.on_hub and Path(source.place).is_file():
        return [Path(source.place)]
    try:
        by_split = _listed(source)
    except Exception as error:  # the library may raise anything
        raise _unreadable(source, error) from None
    only = next(iter(by_split)) if len(by_split) == 1 else "train"
    if (split := source.split or only) not in by_split:
        known = sorted(by_split)
        converted = "; the hub's own copy in that form may be at @refs/convert/parquet" if source.on_hub else ""
        without = f"it has no {', '.join(SUFFIXES)} file{converted}"
        advice = f"{nearest(split, known)}splits: {', '.join(known)}" if known else without
        raise SourceError(f"{source} has no split {split!r}; {advice}")
    names = by_split[split]
    return list(map(Path, names)) if not source.on_hub else _downloaded(source, tuple(names))


def _listed(source: Source) -> dict[str, list[str]]:
    return _list_commit(source) if source.on_hub else _list(source)


def _list(source: Source) -> dict[str, list[str]]:
    """The names of the files of records by split: relative to a data set on the hub, whole for a folder."""
    from datasets import load_dataset_builder  # the import takes seconds
    from datasets.data_files import resolve_pattern

    folder = Path(source.place).resolve().as_posix()
    base = f"hf://datasets/{source.place}@{source.revision}" if source.on_hub else folder
    place, revision = (source.place, source.revision) if source.on_hub else (folder, None)
    builder = load_dataset_builder(place, source.config or None, revision=revision)
    found = {str(split): _of_records(names) for split, names in (builder.config.data_files or {}).items()}
    if not any(found.values()):  # it took the pictures beside a file of records for the data
        found = {"train": _of_records(resolve_pattern("**", base))}
    start = f"{base}/" if source.on_hub else ""
    return {split: [name.removeprefix(start) for name in names] for split, names in found.items() if names}


_list_commit = cache(_list)  # a commit's files never change


def _of_records(names: Iterable[str]) -> list[str]:
    return sorted(name for name in map(str, names) if Path(name).suffix in SUFFIXES)


@cache
def _downloaded(source: Source, names: Sequence[str]) -> list[Path]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    has_paths = any(Path(name).suffix != ".parquet" for name in names)  # pictures are inside a .parquet file
    wanted = [*map(glob.escape, names), *(_PICTURES if has_paths else ())]
    try:
        folder = snapshot_download(source.place, repo_type="dataset", revision=source.revision, allow_patterns=wanted)
    except Exception as error:  # the library may raise anything
        raise _unreadable(source, error) from None
    return [Path(folder) / name for name in names]


def _unreadable(source: Source, error: Exception) -> SourceError:
    reason = " ".join(str(error).split())[:300]
    advice = "; check its name and the network, or name a copy on this machine" if source.on_hub else ""
    return SourceError(f"{source} cannot be read ({type(error).__name__}: {reason}){advice}")

"""Reads the source files of recipes, record by record: CSV, TSV, JSON, JSON lines, Parquet, and data sets on the hub.

The user must fix an unreadable file, so every error is a SourceError with the file, the line and what to do.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_DELIMITERS = ",;\t"
_QUOTED = re.compile(r'"[^"]*"')
_MAX_CELL = 1 << 27  # characters


class SourceError(ValueError):
    """A source cannot be read. The message is one sentence."""


class WrittenFloat(float):
    """A float that `str` gives as its file has it: 0.10, 1e3."""

    def __init__(self, digits: str) -> None:
        self._digits = digits

    def __str__(self) -> str:
        return self._digits


def check_is_file(path: Path) -> None:
    """Raises SourceError if the path is a folder or does not exist."""
    if path.is_dir():
        inside = sorted(str(file) for file in path.iterdir() if file.suffix in SUFFIXES)[:5]
        found = f"it has {', '.join(inside)}" if inside else f"it has no {', '.join(SUFFIXES)} file"
        raise SourceError(f"{path} is a folder; --from needs the file with the records; {found}")
    if not path.exists():
        raise SourceError(f"no file {path}; name one with --from")


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a .csv, .tsv, .json or .jsonl file, in order."""
    read = {".json": _read_json, ".jsonl": _read_json_lines}.get(path.suffix, _read_csv)
    try:
        with path.open(encoding="utf-8-sig", newline="" if read is _read_csv else "\n") as file:
            yield from read(path, file)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise SourceError(f"{path} is not UTF-8 text (it has the byte 0x{byte:02x}); save it as UTF-8") from None


def _read_csv(path: Path, file: TextIO) -> Iterator[dict[str, Any]]:
    """Reads every cell as text. The delimiter is the most frequent of comma, semicolon and tab in the header."""
    csv.field_size_limit(_MAX_CELL)
    header = _QUOTED.sub("", file.readline())
    file.seek(0)
    lines = csv.reader(file, delimiter=max(_DELIMITERS, key=header.count), skipinitialspace=True, strict=True)
    try:
        names = [name.strip() for name in next(lines, [])]
        if not any(names):
            raise SourceError(f"{path}: the first line is empty; it must name the columns, as in picture,question,answer")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise SourceError(f"{path}: the first line names the column {repeated[0]!r} twice; rename one")
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(names):
                raise SourceError(
                    f"{path}:{lines.line_num} has {len(cells)} cells, but the first line names {len(names)} columns "
                    f"({', '.join(names)}); put double quotes around a cell that contains the delimiter"
                )
            yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        advice = 'put a cell that contains a double quote in double quotes, and write the inner quote twice ("")'
        raise SourceError(f"{path}:{lines.line_num} is not CSV ({error}); {advice}") from None


def _read_json(path: Path, file: TextIO) -> Iterator[dict[str, Any]]:
    found = _parsed(path, 1, file.read(), "name a file with one object per line .jsonl")
    if not isinstance(found, list):
        raise SourceError(f"{path} is a JSON {type(found).__name__}; it must be a list of records")
    yield from found


def _read_json_lines(path: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _parsed(path, number, line, "each line must be one object")


def _parsed(path: Path, line: int, text: str, advice: str) -> Any:
    """The value of a JSON text that begins at a line of the file. `str` gives its numbers as written."""
    try:
        return json.loads(text, parse_float=WrittenFloat)
    except json.JSONDecodeError as error:
        raise SourceError(f"{path}:{line + error.lineno - 1} is not JSON ({error.msg}); {advice}") from None
    except (ValueError, RecursionError) as error:  # an integer of more than 4,300 digits; nested too deep
        raise SourceError(f"{path}:{line} cannot be read ({error}); {advice}") from None


def read_hub(name: str, suffix: str, *, split: str, config: str | None) -> Iterator[dict[str, Any]]:
    """The records of a hub data set, with encoded images and the names of class labels.

    With a suffix, `name` is a file: on the hub, or a .parquet file.
    """
    from datasets import ClassLabel, disable_progress_bars, load_dataset  # the import takes seconds, and few sources need it

    disable_progress_bars()
    kind = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}.get(suffix, "json")
    try:
        found = load_dataset(kind, data_files=name, split="train") if suffix else load_dataset(name, config, split=split)
        labels = {name: feature.int2str for name, feature in found.features.items() if isinstance(feature, ClassLabel)}
        for record in _with_images_encoded(found):
            yield record | {name: name_of(record[name]) for name, name_of in labels.items() if record[name] is not None}
    except Exception as error:  # the library and its readers may raise anything
        reason = " ".join(str(error).split())[:200]
        raise SourceError(f"{name} cannot be read ({type(error).__name__}: {reason}); name a file with --from") from None


def _with_images_encoded(found: Any) -> Any:
    """The data set with images as {"bytes": ..., "path": ...}. The build decodes them, so that it can leave out broken ones."""
    from datasets import Image, List

    for name, feature in dict(found.features).items():
        if isinstance(feature, Image):
            found = found.cast_column(name, Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), Image):
            found = found.cast_column(name, List(Image(decode=False)))
    return found

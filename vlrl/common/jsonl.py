"""Reads and writes JSON, whole files and lines, with errors that say what to do."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def read_jsonl(path: Path, wanted: Callable[[str], bool] = bool) -> Iterator[dict[str, Any]]:
    """The complete lines of a .jsonl file, which may be growing, end with an incomplete line, or be missing.

    wanted: of a line's text, so that other lines are not parsed.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n") and wanted(line):
                yield json.loads(line)


def read_json(path: Path, remedy: str) -> Any:
    """The value in a JSON file. ValueError, with the remedy, if the file is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it is not JSON ({error}); {remedy}") from None


def append_jsonl(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Appends strict JSON to a .jsonl file and closes it, without fsync. Raises OSError with advice."""
    text = "".join(json.dumps(strict(line), allow_nan=False) + "\n" for line in lines)
    with with_advice(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Replaces a file completely or not at all. Raises OSError with advice."""
    fresh = path.with_name(path.name + ".new")
    with with_advice(path):
        with fresh.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def with_advice(path: Path) -> Iterator[None]:
    """OSError that names the path and says what to do, for an OSError in the block."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; make room, then resume the run from its checkpoint") from error


def strict(value: Any) -> Any:
    """Replaces floats that strict JSON cannot represent by "nan", "inf" and "-inf"; float() reads them back."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return value

"""Files of JSON lines that are complete or say why not."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a .jsonl file that may still be growing, have a torn last line, or not be there."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def append_jsonl(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Adds strict JSON to a .jsonl file; it is on its way to the disk at the return. OSError that says what to do."""
    text = "".join(json.dumps(strict(line), allow_nan=False) + "\n" for line in lines)
    with _or_a_sentence(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Writes a file anew, whole or not at all. OSError that says what to do."""
    fresh = path.with_name(path.name + ".new")
    with _or_a_sentence(path):
        with fresh.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _or_a_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; make room, then resume the run from its checkpoint") from error


def strict(value: Any) -> Any:
    """The value with every float that strict JSON has no spelling for as text: "nan", "inf", "-inf", which float() reads back."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return value

"""Reads and writes JSON, whole files and lines, with errors that say what to do."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TAIL = 512  # bytes; a line of metrics ends with times, which never repeat


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


class GrowingLines:
    """A .jsonl file that another process writes: each call of `lines` reads on where the one before it ended.

    A last line without its end is left for the next call. `was_cut` is asked first: a resumed run cuts its files and writes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._tail = b""
        """The end of the last line that was read, by which a file that was cut and has grown again is recognised."""
        self._seen: tuple[int, int] | None = None
        """Size and time of the last change, when all that was complete had been read."""

    def was_cut(self) -> bool:
        """Whether lines that were read are no longer in the file. `lines` then begins at its start."""
        if self._stat() == self._seen or self._is_whole():
            return False
        self._offset, self._tail, self._seen = 0, b"", None
        return True

    def lines(self, wanted: Callable[[str], bool] = bool) -> Iterator[dict[str, Any]]:
        """The complete lines since the last call. wanted: of a line's text, so that other lines are not parsed."""
        now = self._stat()
        if now is None or now == self._seen:
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._tail = line[-_TAIL:]
                if wanted(text := line.decode()):
                    yield json.loads(text)
        self._seen = now

    def _stat(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_size, found.st_mtime_ns

    def _is_whole(self) -> bool:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset - len(self._tail))
                return file.read(len(self._tail)) == self._tail
        except FileNotFoundError:
            return not self._tail


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

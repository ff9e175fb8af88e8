"""What measuring needs: clocks, percentiles, progress, and files of JSON lines that are whole or say why not."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_APART_S = 10.0  # between two lines of progress


@dataclass(slots=True)
class Clock:
    """Seconds of each named piece of a step. settle: what to wait for at a piece's end, such as an accelerator's queue."""

    settle: Callable[[], None] = lambda: None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.settle()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of them do not exceed, nan without any."""
    ordered = sorted(values) or [math.nan]
    return ordered[(len(ordered) - 1) * percent // 100]


class Tick(Protocol):
    """Tells a progress line that `done` more are done, with a short note to show beside it."""

    def __call__(self, done: int = 1, note: str = "") -> None: ...


def announce(phase: str, *, shown: bool = True) -> None:
    """Prints what begins now, for phases that take a while and have nothing to count."""
    if shown:
        print(phase, flush=True)


@contextmanager
def progress(phase: str, total: int | None, *, done: int = 0, shown: bool = True) -> Iterator[Tick]:
    """A phase's bar with the time remaining; where stdout is no terminal, lines: at most ten, 10 seconds apart, and the last.

    total: None where it is not known; the count alone is then shown. done: of the total, before this process began, as in a run
    that is resumed.

    `with progress("Training", total=150, shown=rank == 0) as tick: tick(1, "reward 0.43")`
    """
    console = Console()
    if not console.is_terminal:
        yield _plain_count(phase, shown) if total is None else _plain_tick(phase, total, done, shown)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console, disable=not shown) as bar:
        task = bar.add_task(phase, total=total, completed=done, note="")
        yield lambda done=1, note="": bar.update(task, advance=done, note=note)


def _plain_tick(phase: str, total: int, before: int, shown: bool) -> Tick:
    start = told_at = time.monotonic()
    so_far = told = before
    measured = 0
    if shown and before:
        print(f"{phase} {before}/{total}", flush=True)

    def tick(done: int = 1, note: str = "") -> None:
        nonlocal so_far, told, told_at, measured
        is_last, so_far, measured = so_far < total <= so_far + done, so_far + done, measured + max(0, done)
        told = min(told, so_far)  # a run may go back
        is_due = 10 * so_far // total > 10 * told // total and time.monotonic() - told_at >= _APART_S
        if shown and (is_last or is_due):
            told, told_at = so_far, time.monotonic()
            left = f", {(told_at - start) * (total - so_far) / measured:.0f} s left" if measured else ""
            print(f"{phase} {so_far}/{total}{left}{', ' if note else ''}{note}", flush=True)

    return tick


def _plain_count(phase: str, shown: bool) -> Tick:
    told, so_far = time.monotonic(), 0

    def tick(done: int = 1, note: str = "") -> None:
        nonlocal told, so_far
        so_far += done
        if shown and time.monotonic() - told > _APART_S:
            told = time.monotonic()
            print(f"{phase} {so_far}{', ' if note else ''}{note}", flush=True)

    return tick


def whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a .jsonl file that may still be growing, have a torn last line, or not be there."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Adds strict JSON to a .jsonl file; it is on its way to the disk at the return. OSError that says what to do."""
    text = "".join(json.dumps(strict(line), allow_nan=False) + "\n" for line in lines)
    with _or_a_sentence(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def write_whole(path: Path, lines: Iterable[str]) -> None:
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

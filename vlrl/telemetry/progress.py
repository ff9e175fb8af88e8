"""Progress of a phase: a bar in a terminal, a few lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vlrl.telemetry.phase import begin, within

_APART_S = 10.0  # between two lines of progress


class Tick(Protocol):
    """Reports to a progress line that `done` more are done, with a short note to show beside it."""

    def __call__(self, done: int = 1, note: str = "") -> None: ...


def announce(phase: str, *, shown: bool = True) -> None:
    """Prints what begins now, for phases that take a while and have nothing to count."""
    begin(phase)
    if shown:
        print(phase, flush=True)


@contextmanager
def progress(phase: str, total: int | None, *, done: int = 0, shown: bool = True) -> Iterator[Tick]:
    """Shows a phase's progress: a bar with the time remaining in a terminal; elsewhere at most ten lines, 10 seconds apart.

    total: None if it is not known; then only the count is shown. done: the part of the total that was done before this process
    began, as in a resumed run.

    `with progress("Training", total=150, shown=rank == 0) as tick: tick(1, "reward 0.43")`
    """
    with within(phase, done=done, total=total) as counted, _shown(phase, total, done, shown) as show:

        def tick(done: int = 1, note: str = "") -> None:
            counted.done += done
            show(done, note)

        yield tick


@contextmanager
def _shown(phase: str, total: int | None, done: int, shown: bool) -> Iterator[Tick]:
    console = Console()
    if not console.is_terminal:
        yield _plain_count(phase, shown) if total is None else _plain_tick(phase, total, done, shown)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console, disable=not shown) as bar:
        task = bar.add_task(phase, total=total, completed=done, note="")
        yield lambda done=1, note="": bar.update(task, advance=done, note=note)


def _plain_tick(phase: str, total: int, before: int, shown: bool) -> Tick:
    start = printed_at = time.monotonic()
    so_far = printed = before
    measured = 0
    if shown and before:
        print(f"{phase} {before}/{total}", flush=True)

    def tick(done: int = 1, note: str = "") -> None:
        nonlocal so_far, printed, printed_at, measured
        is_last, so_far, measured = so_far < total <= so_far + done, so_far + done, measured + max(0, done)
        printed = min(printed, so_far)  # a run may go back
        is_due = 10 * so_far // total > 10 * printed // total and time.monotonic() - printed_at >= _APART_S
        if shown and (is_last or is_due):
            printed, printed_at = so_far, time.monotonic()
            left = f", {(printed_at - start) * (total - so_far) / measured:.0f} s left" if measured else ""
            print(f"{phase} {so_far}/{total}{left}{', ' if note else ''}{note}", flush=True)

    return tick


def _plain_count(phase: str, shown: bool) -> Tick:
    printed, so_far = time.monotonic(), 0

    def tick(done: int = 1, note: str = "") -> None:
        nonlocal printed, so_far
        so_far += done
        if shown and time.monotonic() - printed > _APART_S:
            printed = time.monotonic()
            print(f"{phase} {so_far}{', ' if note else ''}{note}", flush=True)

    return tick

"""Runs a cell: the fault, the same command again, and the comparison with the run that nothing interrupts."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from tests.faults.cells import Cell, Fault
from tests.faults.runs import SETUPS, End, Runs, difference, flag, mount_disk, remove, slug, start, unmount_disk
from tests.loop import Loop

_one_disk = Lock()


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """fault: why the cell failed, empty if it did not; said: the sentences that the run printed; seconds: that it took."""

    fault: str = ""
    said: tuple[str, ...] = ()
    is_equal: bool = True
    was_skipped: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.was_skipped:
            return "left out: no small disk can be mounted here"
        if self.fault:
            return f"FAILED: {self.fault}"
        return "; ".join([*(f"`{each}`" for each in self.said), "equal" if self.is_equal else "all else equal"])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class CellError(Exception):
    """What was not as it should be."""


def run_cell(runs: Runs, cell: Cell) -> Result:
    """The cell's result. Its runs' folder is removed, unless it failed."""
    fault, ranks = cell.fault, cell.configuration.ranks
    began = time.monotonic()
    said: list[str] = []
    with _small_disk(runs.root / "disk", fault) as disk:
        if fault.on_small_disk and disk is None:
            return Result(was_skipped=True)
        loop = runs.loop(cell.configuration, fault.setup, slug(str(cell)), disk=disk)
        remove(loop)  # what an earlier call left
        try:
            straight = runs.straight(cell.configuration, fault.setup)
            _play(loop, fault, ranks, straight, said, disk)
        except (CellError, AssertionError, OSError, ValueError) as failure:
            return Result(fault=str(failure), seconds=time.monotonic() - began)
        remove(loop)
    return Result(said=tuple(dict.fromkeys(said)), is_equal=fault.compare is difference, seconds=time.monotonic() - began)


def _play(loop: Loop, fault: Fault, ranks: int, straight: Loop, said: list[str], disk: Path | None) -> None:
    always = SETUPS[fault.setup][1]
    for injections in fault.starts:
        ends = start(loop, ranks, (*always, *injections), disk=disk, lost=fault.lost)
        _check_ends(ends, fault.ends, fault)
    said += _sentences(ends, fault.says, loop)
    if disk:
        (disk / "filler").unlink()
    flag(loop).unlink(missing_ok=True)
    cure = fault.damage(loop) if fault.damage else lambda: None
    if fault.refused:
        ends = start(loop, ranks, always)
        _check_ends(ends, (2,), fault)
        said += _sentences(ends, fault.refused, loop)
        cure()
    ends = start(loop, ranks, always)
    _check_ends(ends, (0,), fault)
    said += _sentences(ends, fault.warns, loop)
    if where := fault.compare(loop, straight):
        raise CellError(f"not equal: {where}")


def _check_ends(ends: list[End], allowed: tuple[int, ...], fault: Fault) -> None:
    for rank, end in enumerate(ends):
        if rank != fault.lost and end.exit_code not in allowed:
            how = "it hangs" if end.exit_code is None else f"exit code {end.exit_code}"
            raise CellError(f"rank {rank}: {how} instead of {' or '.join(map(str, allowed))}: {_tail(end.printed)}")
        if "Traceback (most recent call last)" in end.printed:
            raise CellError(f"rank {rank} printed a traceback: {_tail(end.printed)}")


def _sentences(ends: list[End], pattern: str, loop: Loop) -> list[str]:
    """The error or warning of the first rank, or of another, that has the pattern; there must be one. The run's folder is
    RUN, this machine HOST, the command to start again COMMAND."""
    if not pattern:
        return []
    printed = (
        "\n".join(end.printed for end in ends).replace(str(loop.folder), "RUN").replace(f"({socket.gethostname()},", "(HOST,")
    )
    printed = re.sub("<launcher> .*", "COMMAND", printed)
    lines = [line for line in printed.splitlines() if re.match("vlrl: |warning: ", line) and re.search(pattern, line)]
    if not lines:
        raise CellError(f"nothing printed has {pattern!r}: {' | '.join(_tail(end.printed) for end in ends)}")
    return lines[:1]


def _tail(printed: str) -> str:
    return " / ".join(printed.strip().splitlines()[-4:])


@contextmanager
def _small_disk(folder: Path, fault: Fault) -> Iterator[Path | None]:
    """A small file system for the run, one at a time; None if it needs none, or may not mount one."""
    if not fault.on_small_disk:
        yield None
        return
    with _one_disk:
        mounted = mount_disk(folder)
        try:
            yield folder if mounted else None
        finally:
            if mounted:
                unmount_disk(folder)
            folder.rmdir()

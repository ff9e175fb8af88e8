"""status.json in a run's folder: what each rank does now, for `vlrl status`. The first rank writes it once a second.

Whether the run still goes is not a question of clocks, which may differ between hosts: a reader waits for the file's count to
rise. A run that ends removes the file; one that lost a rank leaves it, with the reason.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any

from vlrl.distributed.checkpoint import saved_steps
from vlrl.telemetry import phase

STATUS = "status.json"
_PERIOD_S = 1.0


class StatusFile:
    """Writes the run's status, in a thread of its own, from `begin` to `end`. ranks: returns the newest news of each rank."""

    def __init__(self, folder: Path, ranks: Callable[[], list[dict[str, Any]]]) -> None:
        self.newest_checkpoint = max(saved_steps(folder / "checkpoints"), default=0)
        self._path, self._ranks = folder / STATUS, ranks
        self._count = 0
        self._over = Event()
        self._thread = Thread(target=self._write_on, name="status", daemon=True)
        self._thread.start()

    def end(self, reason: str = "") -> None:
        """Stops; removes the file, or leaves it with the reason if the run has begun. Waits only so long for a hung disk."""
        self._over.set()
        self._thread.join(5 * _PERIOD_S)
        if reason and (self._path.parent / "config.yaml").exists():
            self._write(reason)
        else:
            self._path.unlink(missing_ok=True)

    def _write_on(self) -> None:
        while not self._over.wait(_PERIOD_S):
            self.newest_checkpoint = max(saved_steps(self._path.parent / "checkpoints"), default=0)
            self._write()

    def _write(self, ended: str = "") -> None:
        self._count += 1
        run = phase.counted()
        content = {"count": self._count, "ended": ended, "checkpoint": self.newest_checkpoint, "ranks": self._ranks()}
        if run:
            content |= {"phase": run.name, "done": run.done, "total": run.total, "seconds_left": run.seconds_left}
        fresh = self._path.with_name(f"{STATUS}.new")
        try:  # no fsync: it is news, not a record; a full disk is for the writers of records to report
            fresh.write_text(json.dumps(content))
            fresh.replace(self._path)
        except OSError:
            pass


def status(folder: Path, patience_s: float = 5 * _PERIOD_S) -> tuple[bool, list[str]]:
    """Whether the run in this folder goes, and lines about it. Waits patience_s for a sign of life."""
    is_running, now = _watch(folder, patience_s)
    return is_running, [*_running(now)] if is_running and now else [*_ended(folder, now)]


def shows_life(folder: Path, patience_s: float = 120.0) -> bool:
    """Whether the run in this folder goes, or has no status file to judge by.

    patience_s: longer than a shared file system serves an old file from its cache, 60 seconds under NFS.
    """
    is_running, now = _watch(folder, patience_s)
    return is_running or now is None


def _watch(folder: Path, patience_s: float) -> tuple[bool, dict[str, Any] | None]:
    """Waits until the status counts on; whether it does, and the newest status."""
    first = now = read_status(folder)
    until = time.monotonic() + patience_s
    while first and not first["ended"] and now and now["count"] == first["count"] and time.monotonic() < until:
        time.sleep(0.1)
        now = read_status(folder)
    return bool(now and first and now["count"] != first["count"] and not now["ended"]), now


def _running(now: Mapping[str, Any]) -> Iterator[str]:
    if "done" in now:
        left = now["seconds_left"]
        pace = f", {left:.0f} s left at {3600 * (now['total'] - now['done']) / left:.0f} an hour" if left else ""
        yield f"{now['phase']} {now['done']}/{now['total']}{pace}; newest checkpoint: {_checkpoint(now['checkpoint'])}"
    for rank in now["ranks"]:
        yield f"rank {rank['rank']} on {rank['host']} (process {rank['pid']}): {_doing(rank)}"
        yield from (f"  its {line}" for line in rank.get("others", ()))


def _doing(rank: Mapping[str, Any]) -> str:
    if "phase" not in rank:
        return "not heard from yet"
    return f"{rank['phase']} for {rank['for_s']:.0f} s; last heard from {rank['silent_s']:.0f} s ago"


def _ended(folder: Path, last: Mapping[str, Any] | None) -> Iterator[str]:
    steps = saved_steps(folder / "checkpoints")
    yield f"{folder} is not running; newest checkpoint: {_checkpoint(max(steps, default=0))}"
    if last and last["ended"]:
        yield last["ended"]
    elif last:
        yield "It ended without a word, as a process that is killed does, or is stopped. What it did last:"
        yield from _running(last)


def _checkpoint(step: int) -> str:
    return f"step {step}" if step else "none"


def read_status(folder: Path) -> dict[str, Any] | None:
    """The content of a run's status file; None if it has none, since it has not begun or has ended well."""
    try:
        return json.loads((folder / STATUS).read_text())
    except FileNotFoundError:
        return None


def own_news(rank: int, host: str) -> dict[str, Any]:
    """What this rank does now, as the others and the status file get it."""
    now = phase.current()
    return {
        "rank": rank,
        "host": host,
        "pid": os.getpid(),
        "phase": phase.describe(),
        "for_s": time.monotonic() - now.since,
        "waits": now.name == phase.WAITING,
        "others": [line for report in tuple(phase.reports) for line in report()],
        "silent_s": 0.0,
    }

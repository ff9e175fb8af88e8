"""Keeps a service's replies and what they cost in a folder, so that a resumed run gets the same verdicts and keeps its budget."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from vlrl.common.jsonl import append_jsonl


class Record:
    """One service's questions and replies. Each rank writes a file of its own, and reads those of all ranks when it starts.

    folder: of the run, or a given one; None keeps the record in memory. ranks: over which the rest of a budget is divided.
    budgets: the most that a run may spend of "requests" and "tokens"; None is no limit.
    """

    def __init__(
        self, folder: Path | None, service: str, budgets: Mapping[str, int | None], *, rank: int = 0, ranks: int = 1
    ) -> None:
        self._lock = Lock()
        self._replies: dict[str, Any] = {}
        self._spent = dict.fromkeys(("requests", "tokens"), 0)
        self._path = folder / f"{service}-{rank}.jsonl" if folder else None
        for path in sorted(folder.glob(f"{service}-*.jsonl")) if folder else ():
            for line in _lines(path):
                self._keep(line)
        if self._path and self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            with self._path.open("a") as file:
                file.write("\n")  # the last line was cut off by a kill, and the next one must not continue it
        before = self._spent
        self._spent = dict.fromkeys(before, 0)
        self._budgets = budgets
        self._left = {name: max(0, most - before[name]) / ranks for name, most in budgets.items() if most is not None}

    def find(self, key: str) -> Any:
        """The kept reply to a question; None if there is none."""
        with self._lock:
            return self._replies.get(key)

    def exhausted(self) -> str:
        """The budget that is spent, such as "max_requests 1000"; empty if none is."""
        with self._lock:
            return next((f"max_{name} {self._budgets[name]}" for name in self._left if self._spent[name] >= self._left[name]), "")

    def add(self, replies: Mapping[str, Any], *, requests: int, tokens: int = 0) -> None:
        """Keeps the replies of a request, by their question's key, and what it cost. A request that failed has no replies."""
        line = {"replies": dict(replies), "requests": requests, "tokens": tokens}
        with self._lock:
            self._keep(line)
            if self._path:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                append_jsonl(self._path, [line])

    def _keep(self, line: Mapping[str, Any]) -> None:
        self._replies |= line["replies"]
        for name in self._spent:
            self._spent[name] += line[name]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a file that another process may be writing."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            yield json.loads(line)

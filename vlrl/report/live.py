"""What the page of running runs shows: read from their folders as they grow, and drawn no more often than is cheap.

A version names what was read; whoever has that version needs nothing. Requests come from several threads, one at a time reads.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from markupsafe import Markup

from vlrl.common.fingerprint import text_fingerprint
from vlrl.common.suggest import nearest_folder
from vlrl.distributed.status import read_status
from vlrl.report.draw import rendered
from vlrl.report.health import SILENT_S, Health, duration, health
from vlrl.report.page import browsed, page_of, parts_of_page, thumbnail
from vlrl.report.read import RunData, RunReader

_LOOK_S = 0.5  # readers that ask within this time share a look
_SHARE = 10  # drawing takes at most one part in so many of the server's time, since a run may need the cores
_MOST_RANKS = 64  # in the table of what each rank does; those that were silent longest


class LiveRun:
    """One run's folder, which need not exist yet. run: None until it has a config.yaml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run: RunData | None = None
        self.images: dict[str, int] = {}
        """The number of each picture by its reference; a number is kept as long as the server runs."""
        self.refs: list[str] = []
        self._reader = RunReader(folder)
        self._status: dict[str, Any] | None = None
        self._count: int | None = None
        self._counted_on = False
        self._since = time.monotonic()
        self._fault = ""

    @property
    def life(self) -> int:
        return self._reader.life

    @property
    def num_lasting(self) -> int:
        return self._reader.num_lasting if self.run else 0

    @property
    def version(self) -> str:
        """Names what was read: it changes if the page's figures or rollouts do."""
        if not self.run:
            return "-"
        run = self.run
        parts = (self.life, len(run.metrics), run.num_rollouts, len(run.left_behind), bool(run.summary), run.config.steps)
        return ".".join(str(int(part)) for part in parts)

    def look(self) -> None:
        """Reads what was added since the last look."""
        self._status, now = read_status(self.folder), time.monotonic()
        count = self._status["count"] if self._status else None
        if count != self._count:
            self._counted_on = None not in (count, self._count)
            self._count, self._since = count, now
        self._fault = ""
        if not (self.folder / "config.yaml").exists():
            self.run = None
            return
        try:
            self.run = self._reader.read()
        except (ValueError, OSError) as error:
            self._fault = f"{self.folder} can't be read: {error}"

    def now(self) -> dict[str, Any]:
        """The run's health, and what each rank does, as cells of a table."""
        found = self._health()
        ranks = self._status["ranks"] if self._status and not self._status["ended"] else []
        shown = sorted(ranks, key=lambda rank: rank["silent_s"], reverse=True)[:_MOST_RANKS]
        cells = [row for rank in sorted(shown, key=lambda rank: rank["rank"]) for row in _cells(rank)]
        return {"name": self.folder.name, "is_well": found.is_well, "sentence": found.sentence, "ranks": cells}

    def _health(self) -> Health:
        if self._fault:
            return Health(is_well=False, sentence=self._fault)
        waited = time.monotonic() - self._since
        quiet_s = waited if self._counted_on or waited >= SILENT_S else None
        found = health(self.folder, self.run, self._status, quiet_s=quiet_s)
        near = "" if self.folder.exists() else nearest_folder(self.folder, with_file="config.yaml")
        return Health(is_well=found.is_well, sentence=f"{found.sentence} {near}".strip())

    def groups(self, start: int) -> list[dict[str, Any]]:
        """The groups for the browser, from the one with this number on."""
        assert self.run
        found = [browsed(self.run, group, self.images) for group in self.run.groups[start:]]
        self.refs += list(self.images)[len(self.refs) :]
        return found


class Live:
    """The page of some runs, and what its scripts ask for."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._runs = [LiveRun(folder) for folder in folders]
        self._lock = Lock()
        self._looked_at = self._next_at = -float("inf")
        self._drawn = self._text = ""
        self._parts: tuple[dict[str, Any], Markup] = ({}, Markup("{}"))

    def now(self) -> dict[str, Any]:
        """How the runs are, and the versions of the rest. page: changes if the whole page must be loaded again."""
        with self._lock:
            self._look()
            return {"page": self._page(), "version": self._version(), "runs": [run.now() for run in self._runs]}

    def page(self) -> str:
        """The page as it is now, with all rollouts."""
        with self._lock:
            self._look()
            self._draw(at_once=self._page() not in self._drawn)
            runs = [
                {
                    "name": each.run.name,
                    "tasks": each.run.tasks,
                    "groups": each.groups(0),
                    "of": each.run.num_rollouts,
                    "life": each.life,
                    "lasting": each.num_lasting,
                }
                for each in self._begun()
                if each.run
            ]
            browser = {"runs": runs, "page": self._page(), "version": self._version(), "drawn": self._drawn}
            values, figures = self._parts
            title = ", ".join(each.folder.name for each in self._runs)
            return page_of([each.run for each in self._begun() if each.run], browser, values, figures, live=True, title=title)

    def figures(self) -> tuple[str, str]:
        """The figures and tables, drawn anew if there is something new and the last drawing was long enough ago."""
        with self._lock:
            self._look()
            self._draw()
            return self._drawn, self._text

    def rollouts(self, run: int, life: int, start: int) -> dict[str, Any]:
        """The groups of a run from the one with this number on; all of them if the reader's are of an earlier life."""
        with self._lock:
            self._look()
            each = self._begun()[run]
            assert each.run
            first = start if life == each.life else 0
            more = {"life": each.life, "lasting": each.num_lasting, "of": each.run.num_rollouts}
            return {"from": first, "groups": each.groups(first), **more}

    def picture(self, run: int, place: int) -> tuple[bytes, str]:
        """A picture of a run's prompts by its number, so that nobody can ask for another file."""
        with self._lock:
            ref = self._begun()[run].refs[place]
        return thumbnail(ref)

    def _begun(self) -> list[LiveRun]:
        return [each for each in self._runs if each.run]

    def _look(self) -> None:
        if time.monotonic() - self._looked_at < _LOOK_S:
            return
        for each in self._runs:
            each.look()
        self._looked_at = time.monotonic()

    def _page(self) -> str:
        """Names what only a whole page shows: which runs have begun, with which settings."""
        return text_fingerprint(*(repr(each.run.config).encode() for each in self._begun() if each.run))

    def _version(self) -> str:
        return "/".join([self._page(), *(each.version for each in self._runs)])

    def _draw(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._version() == self._drawn or (now < self._next_at and not at_once):
            return
        self._drawn = self._version()
        self._parts = parts_of_page([each.run for each in self._begun() if each.run])
        values, figures = self._parts
        html = {"menu": rendered("nav.html", **values), "sections": rendered("sections.html", **values)}
        self._text = f'{json.dumps({"version": self._drawn, **html})[:-1]}, "figures": {figures}}}'
        self._next_at = time.monotonic() + _SHARE * (time.monotonic() - now)


def _cells(rank: Mapping[str, Any]) -> Iterator[list[str]]:
    """The rows of what a rank does, and of what other processes do for it."""
    yield [
        str(rank["rank"]),
        rank["host"],
        str(rank["pid"]),
        rank.get("phase", "not heard from yet"),
        duration(rank["for_s"]) if "for_s" in rank else "",
        f"{duration(rank['silent_s'])} ago",
    ]
    for line in rank.get("others", ()):
        yield ["", "", "", line, "", ""]

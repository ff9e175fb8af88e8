"""The folder with the rows of a source that a run file names: built once, then used by every run that names the same.

The folder's name is a hash of the source's contents (on the hub, of its commit), the columns, the held-out part and the task. So
it never gets other rows than those that a run began with. A revision of the hub that may move, such as main, is looked up once,
and its commit is kept in a file beside the folder: remove that, or name a commit, to get newer rows.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from vlrl.common.columns import VERSION, Columns
from vlrl.common.jsonl import write_atomically
from vlrl.data.shards import MANIFEST
from vlrl.data.source_files import Source, content_hash, pinned
from vlrl.data.sources import SourceError

CACHE = Path("data/cache")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsRequest:
    """What a run file's lines ask for. held_out: how many rows to draw for evaluation, or the source of these rows."""

    task: str
    source: Source
    columns: Columns
    held_out: Source | int | None = None

    @property
    def train(self) -> Path:
        return self.folder / "train"

    @property
    def eval(self) -> Path | None:
        return self.folder / "eval" if self.held_out else None

    @property
    def folder(self) -> Path:
        """Raises SourceError if the hub's commit is not known yet, or if a local source is missing."""
        facts = {
            "version": VERSION,
            "task": self.task,
            "columns": self.columns.by_field,
            "source": _identity(self.source),
            "held_out": _identity(self.held_out) if isinstance(self.held_out, Source) else self.held_out,
        }
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return CACHE / f"{self.source.name}-{name}"

    @property
    def is_built(self) -> bool:
        """Whether the rows are there. Asks no other machine. Raises SourceError if a local source is missing."""
        sources = [each for each in (self.source, self.held_out) if isinstance(each, Source)]
        if any(each.on_hub and not _commit(each) for each in sources):
            return False
        return all((part / MANIFEST).exists() for part in (self.train, self.eval) if part)

    def pinned(self) -> tuple["RowsRequest", str]:
        """The request at the hub's commits, and its licence. Asks the hub, and keeps a commit that was not known before."""
        source, licence = _pinned(self.source)
        held_out = _pinned(self.held_out)[0] if isinstance(self.held_out, Source) else self.held_out
        return replace(self, source=source, held_out=held_out), licence


def _identity(source: Source) -> str:
    if not source.on_hub:
        return f"{source} {content_hash(source)}"
    if commit := _commit(source):
        return str(replace(source, revision=commit))
    raise SourceError(f"{source} is not built yet; vlrl prepare RUN.yaml builds it")


def _commit(source: Source) -> str:
    """The hub's commit for the source's revision: as written, or as looked up before; empty if it is not known."""
    return source.commit or (_kept_in(source).read_text().strip() if _kept_in(source).exists() else "")


def _kept_in(source: Source) -> Path:
    written = f"{source.place}@{source.revision}"
    return CACHE / f"{source.name}-{hashlib.sha256(written.encode()).hexdigest()[:16]}.commit"


def _pinned(source: Source) -> tuple[Source, str]:
    found, licence = pinned(replace(source, revision=_commit(source) or source.revision))
    if found.on_hub and not _commit(source):
        CACHE.mkdir(parents=True, exist_ok=True)
        write_atomically(_kept_in(source), [found.commit])
    return found, licence

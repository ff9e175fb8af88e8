"""Checkpoints that are whole or not there: `step-000050/`, whose manifest.json names every file with its size and SHA-256.

All ranks write into `.tmp-step-000050`. Beside the next step, a thread of each rank syncs the files that this rank wrote to the
disk, hashes them and notes the result; the thread of rank 0 waits for all notes, writes the manifest last and renames the folder.
So a run killed at any moment leaves either the new checkpoint or the old ones. Loading trusts nothing: a damaged checkpoint is
named and the one before it taken. Ranks decide together through `agree(value)`, the smallest of all ranks' values, which returns
on none before all have called it: if one rank fails, every rank stops, and all resume from the same step.
"""

import hashlib
import json
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.common.jsonl import sync, write_atomically

logger = logging.getLogger(__name__)

Agree = Callable[[int], int]

_MANIFEST, _STATE = "manifest.json", "state.json"
_HEADROOM = 1.2
DEADLINE_S = 25 * 60.0
"""How long rank 0 waits for the other ranks to sync and hash their files; less than the ranks wait for each other."""
_GRACE_S = 20.0  # the same in a process that is ending, such as after an error: another rank may have ended before its files were
_POLL_S = 0.05
_FULL_BYTES = 1 << 20  # a disk with less free space is full


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A verified checkpoint after `step` steps. state: what was given to `save`, as JSON reads it back."""

    step: int
    path: Path
    state: Mapping[str, Any]


def alone(value: int) -> int:
    """`agree` of a single process."""
    return value


def begin(
    root: Path,
    step: int,
    write: Callable[[Path], None],
    state: Mapping[str, Any],
    *,
    keep: int,
    protected: Collection[int] = (),
    rank: int = 0,
    world_size: int = 1,
    agree: Agree = alone,
    expected_bytes: int = 0,
) -> Callable[[], None]:
    """Writes what is to become `root/step-<step>`, and seals it in the background; every rank calls this, and then the result.

    Once that returns, the checkpoint is there, and of the others the `keep` newest up to it and the protected. write: puts this
    rank's files into the folder it is given, which is this rank's own; afterwards they move to the checkpoint's, under the same
    names. state: JSON values. expected_bytes: the checkpoint's size, used while there is no
    earlier one to judge by. Checkpoints of later steps are removed: they belong to a future that the run has left. Both calls
    raise OSError if the disk is too small, or some rank's files are not on it in time (DEADLINE_S); and RuntimeError if another
    rank failed.
    """
    assert keep >= 1, "a run without a checkpoint cannot resume"
    fresh, final = root / f".tmp-{_name(step)}", root / _name(step)
    with _all_or_none(agree, f"preparing {final}"):
        if rank == 0:
            _make_room(root, expected_bytes)
            fresh.mkdir()
    with _all_or_none(agree, f"preparing {final}"):
        if not fresh.is_dir():
            raise OSError(f"rank {rank} does not see {fresh}; put the run on a file system that all nodes share")
    with _all_or_none(agree, f"writing {final}"), _naming_a_full_disk(fresh):
        names = _written(fresh, rank, write)

    def seal() -> None:
        _note(fresh, rank, names)
        if rank == 0:
            _seal(fresh, step, state, _noted(fresh, world_size))
            _put_in_place(fresh, final)
            _prune(root, step, keep, protected)

    sealing = _in_background(seal)

    def finish() -> None:
        with _all_or_none(agree, f"finishing {final}"), _naming_a_full_disk(root):
            sealing.result()

    return finish


def save(root: Path, step: int, write: Callable[[Path], None], state: Mapping[str, Any], **how: Any) -> None:
    """A checkpoint begun and finished; see `begin`."""
    begin(root, step, write, state, **how)()


def newest_good(root: Path, *, rank: int = 0, world_size: int = 1, agree: Agree = alone) -> Checkpoint | None:
    """The newest checkpoint that its manifest confirms, the same on every rank; None if there is none.

    Each rank reads its share of the files. A damaged checkpoint is named in a warning and passed over. Raises ValueError if
    there are checkpoints and none of them is whole: starting from nothing is the user's decision.
    """
    found = dict(_folders(root))

    def newest_before(limit: float) -> int:
        return -agree(-max((step for step in found if step < limit), default=-1))

    step = newest = newest_before(math.inf)
    while step >= 0:
        share = slice(rank, None, world_size)
        fault = _fault(step, found[step], share) if step in found else f"rank {rank} does not see it"
        if agree(int(not fault)):
            return Checkpoint(step=step, path=found[step], state=json.loads((found[step] / _STATE).read_text()))
        older = newest_before(step)
        if fault:
            turn = f"falling back to {_name(older)}" if older >= 0 else "no older one is left"
            logger.warning("checkpoint %s is damaged: %s; %s", _name(step), fault, turn)
        step = older
    if newest >= 0:
        raise ValueError(f"no checkpoint in {root} is whole (see the warnings); remove that folder to start from the beginning")
    return None


def checkpoint_at(root: Path, step: int) -> Checkpoint:
    """The checkpoint after `step` steps. Raises ValueError, with the steps that there are, if it is missing or damaged."""
    found = dict(_folders(root))
    if step not in found:
        there = ", ".join(map(str, sorted(found))) or "none"
        raise ValueError(f"there is no checkpoint of step {step} in {root}; there are: {there}")
    if fault := _fault(step, found[step], slice(None)):
        raise ValueError(f"checkpoint {_name(step)} in {root} is damaged: {fault}; choose another step")
    return Checkpoint(step=step, path=found[step], state=json.loads((found[step] / _STATE).read_text()))


@contextmanager
def _all_or_none(agree: Agree, what: str) -> Iterator[None]:
    """Runs the block on every rank; if it fails on one, every rank raises."""
    done = False
    try:
        yield
        done = True
    finally:
        if not agree(int(done)) and done:
            raise RuntimeError(f"{what} failed on another rank; its message says why")


@contextmanager
def _naming_a_full_disk(folder: Path) -> Iterator[None]:
    """OSError, with advice, for whatever a library raises when the disk fills: torch speaks of an unexpected position."""
    try:
        yield
    except Exception as error:
        if shutil.disk_usage(folder).free >= _FULL_BYTES:
            raise
        raise OSError(f"cannot write {folder}: No space left on its disk; make room and resume") from error


def _make_room(root: Path, expected_bytes: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for stale in root.glob(".tmp-step-*"):
        shutil.rmtree(stale)
    last = dict(_folders(root))
    need = _HEADROOM * (_size(last[max(last)]) if last else expected_bytes)
    free = shutil.disk_usage(root).free
    if free < need:
        raise OSError(f"{root}: a checkpoint needs {need / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; make room and resume")


def _written(folder: Path, rank: int, write: Callable[[Path], None]) -> list[str]:
    """The names in `folder` of the files that this rank wrote."""
    own = folder / f".rank-{rank}"
    own.mkdir()
    write(own)
    names = [path.relative_to(own).as_posix() for path in sorted(own.rglob("*")) if path.is_file()]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).replace(folder / name)
    shutil.rmtree(own)
    return names


def _in_background(work: Callable[[], None]) -> Future[None]:
    """Does the work in a thread, which a process that ends lets come to its end."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="checkpoint").start()
    return done


def _note(folder: Path, rank: int, names: list[str]) -> None:
    """Syncs this rank's files to the disk, then notes for rank 0 their sizes and digests, or what prevented it."""
    note: dict[str, Any] = {"error": "it was stopped"}
    try:
        for path in (folder / name for name in names):
            sync(path)
        note = {"files": {name: _entry(folder / name) for name in names}}
    except Exception as error:
        note = {"error": str(error)}
        raise
    finally:
        write_atomically(_note_of(folder, rank), [json.dumps(note)])


def _noted(folder: Path, world_size: int) -> dict[str, Any]:
    """What all ranks noted of their files, by name, once the last of them has."""
    start = time.monotonic()
    while missing := [rank for rank in range(world_size) if not _note_of(folder, rank).exists()]:
        if time.monotonic() - start > (DEADLINE_S if threading.main_thread().is_alive() else _GRACE_S):
            named = ", ".join(map(str, missing))
            raise TimeoutError(
                f"{folder}: rank {named} did not sync and hash its files within {DEADLINE_S / 60:.0f} min after rank 0 had; look "
                "at the file system there, then resume the run"
            )
        time.sleep(_POLL_S)
    files: dict[str, Any] = {}
    for rank in range(world_size):
        note = json.loads(_note_of(folder, rank).read_text())
        if "error" in note:
            raise RuntimeError(f"{folder}: rank {rank} could not sync and hash its files: {note['error']}")
        files |= note["files"]
        _note_of(folder, rank).unlink()
    return files


def _note_of(folder: Path, rank: int) -> Path:
    return folder / f".rank-{rank}.json"


def _entry(path: Path) -> dict[str, Any]:
    """A file in the manifest."""
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _seal(folder: Path, step: int, state: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Writes and syncs the manifest, after all that it vouches for. files: by name what each rank noted, already synced."""
    (folder / _STATE).write_text(json.dumps(state))
    sync(folder / _STATE)
    table = {**files, _STATE: _entry(folder / _STATE)}
    for inside in sorted(path for path in folder.rglob("*") if path.is_dir()):
        sync(inside)
    sync(folder)
    (folder / _MANIFEST).write_text(json.dumps({"step": step, "files": dict(sorted(table.items()))}, indent=2) + "\n")
    sync(folder / _MANIFEST)
    sync(folder)


def _put_in_place(fresh: Path, final: Path) -> None:
    # A folder cannot be renamed onto another: one of the same step steps aside, and counts until the new one is in its place.
    aside = final.with_name(f".old-{final.name}")
    if final.exists():
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
    fresh.rename(final)
    sync(final.parent)


def saved_steps(root: Path) -> list[int]:
    """The steps of all checkpoints that there are, whole or damaged, in order."""
    return sorted({step for step, _ in _folders(root)})


def drop(root: Path, is_left_behind: Callable[[int, Mapping[str, Any]], bool]) -> None:
    """Removes the checkpoints of which `is_left_behind(step, state)` holds; one process alone calls it."""
    for step, path in _folders(root):
        try:
            state = json.loads((path / _STATE).read_text())
        except (OSError, ValueError):
            continue  # a damaged one is passed over by whoever loads
        if is_left_behind(step, state):
            gone = root / f".tmp-{_name(step)}"  # half removed it would be a damaged checkpoint
            shutil.rmtree(gone, ignore_errors=True)
            path.rename(gone)
            shutil.rmtree(gone)


def _prune(root: Path, step: int, keep: int, protected: Collection[int]) -> None:
    upto = sorted((item for item in dict(_folders(root)).items() if item[0] <= step), reverse=True)
    whole = [path for other, path in upto if not _fault(other, path, slice(0))]
    for other, path in _folders(root):
        if path not in whole[:keep] and other not in protected:
            shutil.rmtree(path)


def _folders(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of all that claim to be checkpoints. In a dict of them one that stepped aside gives way to its successor."""
    paths = [*root.glob(".old-step-*"), *root.glob("step-*")]
    return [(int(digits), path) for path in paths if (digits := path.name.rpartition("step-")[2]).isdigit()]


def _fault(step: int, folder: Path, share: slice) -> str:
    """What is wrong with a checkpoint, empty if nothing is: all sizes are checked, contents in this share of its files."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
        for name, entry in manifest["files"].items():
            if sizes[name] != entry["bytes"]:
                return f"{name} has {sizes[name]} bytes, manifest says {entry['bytes']}"
        mine = list(manifest["files"])[share]
        for name, digest in zip(mine, _digests([folder / name for name in mine]), strict=True):
            if digest != manifest["files"][name]["sha256"]:
                return f"{name} has other contents than the manifest says"
        return "" if manifest["step"] == step else f"its manifest is of step {manifest['step']}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(folder)} is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} cannot be read"


def _digests(files: list[Path]) -> list[str]:
    """The SHA-256 of each file, in order; in threads, since hashing lets go of the interpreter's lock."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_sha256, files))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

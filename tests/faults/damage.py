"""What a fault spoils in a run's folder, and how each is put back."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.loop import Loop

Cure = Callable[[], object]
Damage = Callable[[Loop], Cure]


def change(pattern: str, change: Callable[[Path], object], *, newest: bool = True) -> Damage:
    """Damages the newest file of this pattern in the run's folder, or all; the cure puts them back."""

    def damage(loop: Loop) -> Cure:
        found = sorted(loop.folder.glob(pattern))
        assert found, f"{loop.folder} has no {pattern}"
        contents = {path: path.read_bytes() for path in (found[-1:] if newest else found)}
        for path in contents:
            change(path)

        def cure() -> None:
            for path, content in contents.items():
                path.write_bytes(content)

        return cure

    return damage


def torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def torn_in_last_line(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def without_first_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def gone(path: Path) -> None:
    path.unlink()


def folder_gone(pattern: str) -> Damage:
    def damage(loop: Loop) -> Cure:
        for path in loop.folder.glob(pattern):
            shutil.rmtree(path)
        return lambda: None

    return damage


def other_host_holds_it(loop: Loop) -> Cure:
    """A lock as a shared file system keeps it for a host that has vanished."""
    file = (loop.folder / "lock").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write("trained by process 1 on a-host-that-vanished")
    file.flush()
    return file.close


def left_lock(loop: Loop) -> Cure:
    assert (loop.folder / "lock").exists(), "a killed run leaves its lock file"
    return lambda: None

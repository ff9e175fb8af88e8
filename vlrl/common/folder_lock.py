"""One command at a time in a folder: a lock that the kernel releases when its process ends, however it ends."""

import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK = "lock"
_held: set[int] = set()  # the descriptors of this process's locks


@contextmanager
def held(folder: Path, *, doing: str, remedy: str) -> Iterator[None]:
    """Holds the folder, which is made if missing, until the block or the process ends. Under a launcher the first rank holds it.

    doing: what the command does with the folder, such as "trained"; remedy: what a second command is told to do.
    ValueError if another command holds the folder; OSError if the lock can't be written. Readers need no lock.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    path = folder / LOCK
    descriptor = _take(path, remedy)
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{doing} by process {os.getpid()} on {socket.gethostname()}".encode())
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:
            path.unlink(missing_ok=True)
            _held.remove(descriptor)
            os.close(descriptor)
            with suppress(OSError):
                folder.rmdir()  # if nothing else was written


def _take(path: Path, remedy: str) -> int:
    """The locked file's descriptor. A file that another command removed before it was locked here is opened again."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)  # programs that are started don't inherit it
        except FileNotFoundError:
            continue  # the other command removed the folder, too
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}; choose a folder that you may write in") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 1000).decode() or "used by another command"
            os.close(descriptor)
            raise ValueError(f"{path.parent} is being {holder}; wait for it, or {remedy}") from None
        except OSError as error:
            logger.warning("%s: its disk has no locks (%s); start no second command in it", path.parent, error.strerror)
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _leave_to_parent() -> None:
    """In a forked process: the lock stays the parent's alone, and ends with it."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)

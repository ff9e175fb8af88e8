"""Locks a folder for one command at a time. The kernel releases the lock when the process ends, even if it crashes."""

import fcntl
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK = "lock"
_held: set[int] = set()  # descriptors of this process's locks


@contextmanager
def held(folder: Path, *, doing: str, remedy: str, is_alive: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Locks the folder until the block or the process ends; creates it if missing. Under a launcher, only the first rank locks
    it.

    doing: what the command does with the folder, such as "trained"; remedy: the advice in a second command's error.
    is_alive: whether a holder on another host still shows signs of life. If it doesn't, its lock is taken over: a shared file
    system may keep the lock of a host that is lost.
    Raises ValueError if another command holds the lock, OSError if the lock cannot be written. Readers need no lock.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    path = folder / LOCK
    descriptor = _take(path, remedy, is_alive)
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
                folder.rmdir()  # succeeds only if the folder is empty


def _take(path: Path, remedy: str, is_alive: Callable[[], bool]) -> int:
    """Opens and locks the file; returns its descriptor. Opens it again if another command removed it before the lock."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)  # child programs do not inherit it
        except FileNotFoundError:
            continue  # another command just removed the folder
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}; choose a folder with write permission") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 1000).decode() or "used by another command"
            os.close(descriptor)
            if not holder.endswith(f" on {socket.gethostname()}") and not is_alive():
                logger.warning("%s was being %s, which shows no sign of life; its lock is taken over", path.parent, holder)
                path.unlink(missing_ok=True)
                continue
            raise ValueError(f"{path.parent} is being {holder}; wait for it, or {remedy}") from None
        except OSError as error:
            logger.warning("%s: its disk does not support locks (%s); run only one command in it", path.parent, error.strerror)
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _leave_to_parent() -> None:
    """Closes the descriptors in a forked process, so that only the parent holds the lock."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)

"""Runs child processes that can be stopped: resource limits, a hard deadline, and a kill of the whole process group.

Only a kill enforces a deadline: a Python signal handler does not run while a C loop runs. A child exchanges lines over its stdin
and stdout. Children are started without a fork of Python code, so the parent may have threads and use a GPU. The parent sets the
limits before it sends the first line, and until a child reads that line it only runs our own code.
"""

import atexit
import os
import resource
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Condition, Thread
from typing import Generic, TypeVar

import psutil

MAX_LINE = 1 << 20
_IDLE_S = 0.05  # a pool starts children once nobody asked for one for this long
_START_S = 30.0  # of a child that is being started while its process ends


class Child:
    """A running child process, the leader of its own session. It is killed when the thread that started it ends.

    argv: the program, which must call `child_stdio.take_pipes` first; limits: values by resource.RLIMIT_*, both hard and soft.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        limits: Mapping[int, int],
        env: Mapping[str, str],
        cwd: str | None = None,
        pass_fds: Sequence[int] = (),
    ):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, env=env, cwd=cwd, pass_fds=pass_fds, start_new_session=True
        )
        self._received = bytearray()
        assert self._process.stdin and self._process.stdout
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._readable = select.poll()
        self._readable.register(self._stdout, select.POLLIN)
        try:
            for kind, value in limits.items():
                _lower_limit(self._process.pid, kind, value)
        except OSError:
            self.kill()
            raise

    def send(self, line: bytes) -> None:
        """Sends one line, given without its newline. Raises BrokenPipeError if the child has ended."""
        self._stdin.write(line + b"\n")
        self._stdin.flush()

    def receive(self, deadline: float) -> bytes:
        """The child's next line, without its newline. deadline: the latest time.monotonic() to wait for.

        Raises TimeoutError at the deadline, EOFError if the child has ended, ValueError if it wrote 1 MiB without a newline.
        """
        while (end := self._received.find(b"\n")) < 0:
            chunk = self._read(deadline)
            if not chunk:
                raise EOFError
            if len(self._received) > MAX_LINE and b"\n" not in chunk:
                raise ValueError(f"a line has more than {MAX_LINE} bytes")
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def receive_rest(self, deadline: float, most: int) -> bytes:
        """All that the child writes until it closes its stdout. deadline: as for `receive`; a later call continues.

        Raises TimeoutError at the deadline, ValueError if there are more than `most` bytes.
        """
        while self._read(deadline):
            if len(self._received) > most:
                raise ValueError(f"more than {most} bytes of output")
        return bytes(self._received)

    def wait(self, deadline: float) -> int:
        """The exit code of a child that ends by itself, -N for signal N. Raises TimeoutError at the deadline."""
        try:
            return self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    def _read(self, deadline: float) -> bytes:
        """Waits for the child's next bytes and keeps them; none at the end of its stdout. Raises TimeoutError at the deadline."""
        while (left := deadline - time.monotonic()) > 0:
            if self._readable.poll(1000 * left):
                chunk = os.read(self._stdout.fileno(), 1 << 16)
                self._received += chunk
                return chunk
        raise TimeoutError

    @property
    def cpu_s(self) -> float:
        """CPU seconds that the child and its children have used."""
        with suppress(psutil.NoSuchProcess):
            child = psutil.Process(self._process.pid)
            times = [each.cpu_times() for each in (child, *child.children(recursive=True))]
            return sum(each.user + each.system for each in times)
        return 0.0

    @property
    def is_asleep(self) -> bool:
        """Whether all threads of the child and its children sleep: they wait for a timer or for input, not for a CPU."""
        with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            child = psutil.Process(self._process.pid)
            processes = (child, *child.children(recursive=True))
            threads = [path for each in processes for path in Path(f"/proc/{each.pid}/task").glob("*/stat")]
            return all(path.read_text().rpartition(")")[2].split()[0] == "S" for path in threads)
        return True

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> int:
        """Kills the child's process group and reaps the child; returns its exit code, -N for signal N. May be called again."""
        if self._process.returncode is None:  # after it is reaped, another process may get its id
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._stdout.close()
        return self._process.wait()


class ChildWithChildren(Child):
    """A child that starts children of its own, such as jails. `kill` kills them too."""

    def kill(self) -> int:
        if self._process.returncode is None:
            _kill_tree(self._process.pid)
        return super().kill()


def _kill_tree(pid: int) -> None:
    """Kills a process and all its descendants. All are stopped first, so that none starts another one meanwhile.

    bubblewrap's --die-with-parent does not cover the moment in which it starts a jail: if its parent dies just then, the jail's
    first process waits for ever, and holds the pipes that it inherited.
    """
    stopped: dict[int, psutil.Process] = {}
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        while fresh := [each for each in (parent, *parent.children(recursive=True)) if each.pid not in stopped]:
            for each in fresh:
                stopped[each.pid] = each
                with suppress(psutil.NoSuchProcess):
                    each.suspend()
    for each in reversed(stopped.values()):
        with suppress(psutil.NoSuchProcess):
            each.kill()


AnyChild = TypeVar("AnyChild", bound=Child)


class Standby(Generic[AnyChild]):
    """A pool of children of one kind. It starts some in advance, in the pauses between requests.

    make: starts a child; most: children that may wait in the pool. The pool starts none before the first request.
    """

    def __init__(self, make: Callable[[], AnyChild], most: int) -> None:
        self._make, self._most = make, most
        self._ready: deque[AnyChild] = deque()
        self._requested = Condition()
        self._is_closed = False
        # The thread that starts children must not end: a child is killed when its starting thread ends.
        self._starter = Thread(target=self._serve, name="standby", daemon=True)

    def take(self) -> AnyChild:
        """Returns a child for the caller alone. Raises what starting one raises."""
        if self._starter.ident is None:
            self._starter.start()
            atexit.register(self._close)
        with self._requested:
            self._requested.notify()
            child = self._ready.popleft() if self._ready else None
        if child and child.has_ended:
            child.kill()
            child = None
        return child or self._make()

    def _serve(self) -> None:
        while not self._is_closed:
            with self._requested:
                is_full = len(self._ready) >= self._most
                if self._requested.wait(None if is_full else _IDLE_S):
                    continue  # leave the cores to the children that are working
            self._ready.append(self._make())

    def _close(self) -> None:
        """Kills the children that wait, at this process's end. Waits for one that is being started; see `_kill_tree`."""
        with self._requested:
            self._is_closed = True
            self._requested.notify()
        self._starter.join(_START_S)
        while self._ready:
            self._ready.popleft().kill()


def _lower_limit(pid: int, kind: int, value: int) -> None:
    hard = resource.prlimit(pid, kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.prlimit(pid, kind, (value, value))

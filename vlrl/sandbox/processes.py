"""Child processes that can be stopped: resource limits, a hard deadline, and a kill that takes the whole process group.

Only a kill is a deadline: a Python signal handler waits until a C loop ends. A child talks in lines over its stdin and
stdout. Nothing is forked with Python code in it, so a parent may hold threads and a GPU; limits are set from outside before
the first line is sent, and what a child does before it reads that line is our own code.
"""

import os
import resource
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import Condition, Thread
from typing import Generic, TypeVar

import psutil

MAX_LINE = 1 << 20
_QUIET_S = 0.05


class Child:
    """A running child process, the leader of a session of its own. It is killed when the thread that started it ends.

    argv: the program, which first calls `child_stdio.take_pipes`; limits: resource.RLIMIT_* to its value, hard and soft.
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
        """Hands the child one line, without its newline. BrokenPipeError where the child is gone."""
        self._stdin.write(line + b"\n")
        self._stdin.flush()

    def receive(self, deadline: float) -> bytes:
        """The child's next line, without its newline. deadline: a time.monotonic() to wait for at most.

        TimeoutError at the deadline; EOFError where the child has ended; ValueError where it has said 1 MiB without a newline.
        """
        while (end := self._received.find(b"\n")) < 0:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if not self._readable.poll(1000 * left):
                continue
            said = os.read(self._stdout.fileno(), 1 << 16)
            self._received += said
            if not said:
                raise EOFError
            if len(self._received) > MAX_LINE and b"\n" not in said:
                raise ValueError(f"more than {MAX_LINE} bytes in a line")
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    @property
    def cpu_s(self) -> float:
        """Seconds that the child and its children have computed."""
        with suppress(psutil.NoSuchProcess):
            child = psutil.Process(self._process.pid)
            times = [each.cpu_times() for each in (child, *child.children(recursive=True))]
            return sum(each.user + each.system for each in times)
        return 0.0

    @property
    def is_asleep(self) -> bool:
        """Whether the child and its children wait of themselves: for a timer or for input, not for a processor."""
        with suppress(psutil.NoSuchProcess):
            child = psutil.Process(self._process.pid)
            return all(each.status() == psutil.STATUS_SLEEPING for each in (child, *child.children(recursive=True)))
        return True

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> int:
        """Ends the child and its process group at once, and reaps it; may be repeated. Its exit code; -N if signal N ended it."""
        if self._process.returncode is None:  # once reaped, its id may be another's
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._stdout.close()
        return self._process.wait()


AnyChild = TypeVar("AnyChild", bound=Child)


class Standby(Generic[AnyChild]):
    """Children of one kind, some of them started before they are asked for, in the time between two bursts of asking.

    make: starts one; most: how many may wait. The first is asked for before any is started ahead.
    """

    def __init__(self, make: Callable[[], AnyChild], most: int) -> None:
        self._make, self._most = make, most
        self._ready: deque[AnyChild] = deque()
        self._asked = Condition()
        # One thread starts them and never ends, since a child is killed when the thread that started it does.
        self._starter = Thread(target=self._serve, name="standby", daemon=True)

    def take(self) -> AnyChild:
        """A child that nobody else has. What starting one raises is raised here."""
        if self._starter.ident is None:
            self._starter.start()
        with self._asked:
            self._asked.notify()
            child = self._ready.popleft() if self._ready else None
        if child and child.has_ended:
            child.kill()
            child = None
        return child or self._make()

    def _serve(self) -> None:
        while True:
            with self._asked:
                is_full = len(self._ready) >= self._most
                if self._asked.wait(None if is_full else _QUIET_S):
                    continue  # children are at work, and the cores are theirs
            self._ready.append(self._make())


def _lower_limit(pid: int, kind: int, value: int) -> None:
    hard = resource.prlimit(pid, kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.prlimit(pid, kind, (value, value))

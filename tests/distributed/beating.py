"""A rank with a heartbeat that does as its input says, in a process that is forked from the tests': torch is imported already.

"do NAME" begins a phase, "wait" waits for the other ranks, "fail SENTENCE" fails, "lose SENTENCE" fails as a collective does when
another rank is gone, and "end" ends well.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from tests.conftest import PATIENCE_S
from vlrl.distributed.heartbeat import Heartbeat
from vlrl.telemetry import phase


class Beating:
    """The process of rank `rank` of `size`, as on a host of its own; port: the store's. What it prints goes to a file."""

    def __init__(self, rank: int, size: int, printed: Path, *, port: int, silent_s: float, wait_s: float) -> None:
        self._printed = printed
        reading, self._input = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.closerange(3, reading)  # among them the store's socket, which must close with the parent's
                os.closerange(reading + 1, 4096)
                os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT), 2)
                sys.stderr = os.fdopen(2, "w")
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0"}
                os._exit(_obey(Heartbeat(rank, size, silent_s=silent_s, wait_s=wait_s, folder=None), os.fdopen(reading)))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(reading)

    def say(self, line: str) -> None:
        os.write(self._input, f"{line}\n".encode())

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    @property
    def printed(self) -> str:
        return self._printed.read_text() if self._printed.exists() else ""

    def end(self) -> tuple[int, str]:
        """The exit code and what it printed, once it has ended."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status), self.printed
            time.sleep(0.02)
        raise TimeoutError(f"the rank has not ended; it printed: {self.printed}")

    def close(self) -> None:
        os.close(self._input)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _obey(heartbeat: Heartbeat, lines: Iterable[str]) -> int:
    waiting = phase.within(phase.WAITING)  # one that is let go of would end
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if word == "do":
            phase.begin(rest)
        elif word == "wait":
            waiting.__enter__()
        else:
            heartbeat.end(rest, is_consequence=word == "lose")
            return 0 if word == "end" else 2
    return 1

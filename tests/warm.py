"""Processes that begin with torch, transformers, DeepSpeed and vLLM imported: forked from one server for all tests of a worker.

Those imports take ten seconds of a core, a tiny run a few more. What a process does from its arguments on is the same; that a
command also begins by itself is for tests/test_docs.py, the launchers' tests and the short run.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.warm_imports"])


class WarmProcess:
    """`python -m MODULE ARGUMENTS...`, with as much of subprocess.Popen as the tests need; output and errors are one text."""

    def __init__(self, module: str, arguments: list[str], *, env: Mapping[str, str], cwd: Path):
        handle, self._printed = tempfile.mkstemp()
        os.close(handle)
        self._process = _context.Process(target=_run, args=(module, arguments, dict(env), str(cwd), self._printed))
        self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.pid and self._process.is_alive():
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, None]:
        """What it printed; subprocess.TimeoutExpired where it does not end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._printed, timeout)
        printed = Path(self._printed)
        text = printed.read_text(errors="replace")
        printed.unlink()
        return text, None


def _run(module: str, arguments: list[str], env: dict[str, str], cwd: str, printed: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    handle = os.open(printed, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()

"""A model's function, class or program in a jail: sends it calls, and returns what it returns or prints.

Tests and expected values never leave this process. The child gets the source and the arguments and returns plain data. A solution
may do anything to its own process, but it can only return values. `vlrl.sandbox.jail` is the jail.
"""

import builtins
import json
import math
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from vlrl.sandbox import jail as sandbox
from vlrl.sandbox.plain_data import decode, encode

_T = TypeVar("_T")
_START_S = 30.0
_MAX_SLOWDOWN = 3.0  # wall-clock time over CPU time on a busy machine
_TICK_S = 0.02  # the kernel counts a process's seconds in ticks
_FILE_BYTES = 8 << 20
_NOT_DATA = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, SyntaxError, RecursionError, MemoryError)
_NOT_RAISED = (StopIteration, StopAsyncIteration, BaseExceptionGroup)  # all(map(candidate, cases)) takes one for the cases' end


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of one call: the returned value, or an error message."""

    value: Any = None
    error: str = ""


class SolutionError(Exception):
    """Raised in test code if a call of the solution raised an exception or returned nothing in time.

    If the solution raised an exception of Python's own, such as a ValueError, the error is one too, so that tests can expect it.
    """


class Solution:
    """A model's code in a jail; a context manager.

    entry_point: the name of a function or class, or an expression such as `Solution().add`; stdin: a program's input.
    timeout_s: CPU seconds for all calls together, once the process is ready. Wall-clock time may be up to three times as long if
    the process waits for a CPU, but not if it sleeps, so that a busy machine does not fail right answers. Raises RuntimeError if
    the process could not be started, which is never the solution's fault.
    """

    def __init__(self, source: str, *, timeout_s: float, memory_mb: int, entry_point: str = "", stdin: str | None = None):
        self.entry_point, self.calls = entry_point, 0
        self._child, confine = sandbox.start(_limits(timeout_s, memory_mb), threads=stdin is not None)
        try:
            self._child.send(json.dumps({"source": source, "stdin": stdin, "confine": confine}).encode())
            reply = json.loads(self._child.receive(time.monotonic() + _START_S))
        except (EOFError, OSError, ValueError) as error:
            raise RuntimeError(f"the process for a solution did not start ({error!r}, exit code {self._child.kill()})") from error
        if reply != "ready":
            self._child.kill()
            raise RuntimeError(f"the process for a solution did not start: {reply}")
        self._timeout_s, self._computed_before_s = timeout_s, self._child.cpu_s
        self._deadline = time.monotonic() + timeout_s
        self._last_deadline = time.monotonic() + _MAX_SLOWDOWN * timeout_s

    def call(self, *args: Any, **kwargs: Any) -> Outcome:
        """The outcome of one call; its error is "timeout" once the time is used up."""
        return self.request({"of": self.entry_point, "name": None, "args": encode(list(args)), "kwargs": encode(kwargs)})

    def request(self, content: dict[str, Any], answer: str = "value") -> Outcome:
        """The outcome of one request to `code_child.serve_calls`; answer: "object" or "attribute" if it may be no plain value."""
        self.calls += 1
        with suppress(OSError):  # if the process has ended, its last reply may say why
            self._child.send(json.dumps(content | {"is_class": answer == "object"}).encode())
        try:
            reply = json.loads(self._in_time(self._child.receive))
            if "error" in reply:
                return Outcome(error=str(reply["error"]))
            if answer == "object" and "object" in reply:
                return Outcome(value=Remote(self, int(reply["object"])))
            if answer == "attribute" and "method" in reply:
                return Outcome(value=Remote(self, content["of"], content["name"]))
            return Outcome(value=decode(reply["value"]))
        except TimeoutError:
            return Outcome(error="timeout")
        except EOFError:
            return Outcome(error="the process ended")
        except _NOT_DATA as error:  # the solution wrote to the pipe
            return Outcome(error=f"unreadable reply ({type(error).__name__})")

    def output(self, most: int) -> Outcome:
        """What the program prints until it ends, in at most `most` bytes. A program that fails has its exception as the error."""
        try:
            printed = self._in_time(lambda deadline: self._child.receive_rest(deadline, most))
            code = self._in_time(self._child.wait)
        except TimeoutError:
            return Outcome(error="timeout")
        except ValueError as error:
            return Outcome(error=str(error))
        if code:
            try:
                return Outcome(error=str(json.loads(printed.splitlines()[-1])["error"]))
            except _NOT_DATA:
                return Outcome(error=f"the process ended with exit code {code}")
        return Outcome(value=printed.decode(errors="replace"))

    def _in_time(self, receive: Callable[[float], _T]) -> _T:
        """What `receive` returns. Raises TimeoutError once the process's time is used up."""
        while True:
            try:
                return receive(self._deadline)
            except TimeoutError:
                left_s = self._timeout_s - (self._child.cpu_s - self._computed_before_s)
                if left_s < _TICK_S or self._deadline >= self._last_deadline or self._child.is_asleep:
                    raise
                self._deadline = min(time.monotonic() + left_s, self._last_deadline)

    def __enter__(self) -> "Solution":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()


class Remote:
    """A function, class, object or method of a solution in test code. Calls return plain data, or raise SolutionError.

    Only a call of a class, named as in CapWords, returns an object, another Remote. A Remote is neither true nor false nor equal
    to anything, because the solution would decide that.
    """

    def __init__(self, solution: Solution, of: str | int, name: str | None = None):
        self._solution, self._of, self._name = solution, of, name
        self.__name__ = name or str(of)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        may_be_class = self._name is None and re.fullmatch("[A-Z][A-Za-z0-9]*", str(self._of))
        request = {"of": self._of, "name": self._name, "args": encode(list(args)), "kwargs": encode(kwargs)}
        return _value(self._solution.request(request, "object" if may_be_class else "value"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self._name is not None:
            raise AttributeError(name)
        return _value(self._solution.request({"of": self._of, "name": name, "args": None}, "attribute"))

    def __bool__(self) -> bool:
        raise TypeError(f"{self.__name__} of the solution is neither true nor false")

    def __eq__(self, other: object) -> bool:
        raise TypeError(f"{self.__name__} of the solution cannot be compared")

    __hash__ = None  # type: ignore[assignment]


def _value(outcome: Outcome) -> Any:
    if not outcome.error:
        return outcome.value
    raised = getattr(builtins, outcome.error.partition(":")[0], None)
    if isinstance(raised, type) and issubclass(raised, Exception) and not issubclass(raised, _NOT_RAISED):
        own = {"__init__": Exception.__init__, "__str__": Exception.__str__}  # some exceptions expect or show more than a text
        raise type("SolutionError", (SolutionError, raised), own)(outcome.error)
    raise SolutionError(outcome.error)


def _limits(timeout_s: float, memory_mb: int) -> dict[str, int]:
    return {
        "RLIMIT_AS": memory_mb << 20,
        "RLIMIT_CPU": math.ceil(timeout_s) + 1,
        "RLIMIT_FSIZE": _FILE_BYTES,
        "RLIMIT_NOFILE": 32,
        "RLIMIT_CORE": 0,
    }

"""Scores a model's code: runs it in a jail and compares the values that it returns.

Tests and expected values never leave this process. The child gets the source and the arguments and returns plain data, which is
compared here by value and exact type. A solution may do anything to its own process, but it can only return values, and wrong
values fail. `vlrl.sandbox.jail` is the jail. Tests that are code run in this process, a scoring worker, which is killed if they
do not end.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlrl.sandbox import jail as sandbox
from vlrl.sandbox.code_child import decode, encode
from vlrl.tasks import BadRow
from vlrl.types import Score
from vlrl.verifiers.answers import after_reasoning

_START_S = 30.0
_MAX_SLOWDOWN = 3.0  # wall-clock time over CPU time on a busy machine
_TICK_S = 0.02  # the kernel counts a process's seconds in ticks
_FILE_BYTES = 8 << 20
_FENCE = "```python"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of one call: the returned value, or an error message."""

    value: Any = None
    error: str = ""


class SolutionError(Exception):
    """Raised in test code if a call of the solution raised an exception or returned nothing in time."""


def extract_code(response: str) -> str | None:
    """The last ```python block after the reasoning, or the whole text if it starts with `def `; None if there is neither.

    Only the last block counts. If it is not closed, the response has no code.
    """
    text = after_reasoning(response).strip()
    if _FENCE not in text:
        return text if text.startswith("def ") else None
    code, fence, _ = text.rpartition(_FENCE)[2].partition("```")
    return code.strip("\n") if fence else None


class Solution:
    """A model's function or program in a jail; a context manager.

    timeout_s: CPU seconds for all calls together, once the process is ready. Wall-clock time may be up to three times as long if
    the process waits for a CPU, but not if it sleeps, so that a busy machine does not fail right answers. Raises RuntimeError if
    the process could not be started, which is never the solution's fault.
    """

    def __init__(self, source: str, *, timeout_s: float, memory_mb: int, entry_point: str = "", stdin: str | None = None):
        job = {"source": source} | ({"entry_point": entry_point} if stdin is None else {"stdin": stdin})
        self._child, confine = sandbox.start(_limits(timeout_s, memory_mb))
        try:
            self._child.send(json.dumps(job | {"confine": confine}).encode())
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
        try:
            self._child.send(json.dumps({"args": encode(list(args)), "kwargs": encode(kwargs)}).encode())
        except OSError:
            return Outcome(error="the process ended")
        return self.receive()

    def receive(self) -> Outcome:
        """The next outcome from the process."""
        try:
            reply = json.loads(self._next_line())
            return Outcome(error=str(reply["error"])) if "error" in reply else Outcome(value=decode(reply["value"]))
        except TimeoutError:
            return Outcome(error="timeout")
        except EOFError:
            return Outcome(error="the process ended")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:  # the solution wrote to the pipe
            return Outcome(error=f"unreadable reply ({type(error).__name__})")

    def _next_line(self) -> bytes:
        """The process's next line. Raises TimeoutError once its time is used up."""
        while True:
            try:
                return self._child.receive(self._deadline)
            except TimeoutError:
                left_s = self._timeout_s - (self._child.cpu_s - self._computed_before_s)
                if left_s < _TICK_S or self._deadline >= self._last_deadline or self._child.is_asleep:
                    raise
                self._deadline = min(time.monotonic() + left_s, self._last_deadline)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The call for test code: returns the value, or raises SolutionError."""
        outcome = self.call(*args, **kwargs)
        if outcome.error:
            raise SolutionError(outcome.error)
        return outcome.value

    def __enter__(self) -> "Solution":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()


def score_calls(
    response: str, entry_point: str, tests: Sequence[Sequence[Any]], *, timeout_s: float = 2.0, memory_mb: int = 512
) -> Score:
    """Scores a function: reward 1 if it passes every test, otherwise 0.

    tests: pairs of arguments and expected value. The score's parts are code (1 if the response has code) and passed (the share of
    tests). Code that crashes, loops or exits fails its tests; the status is still OK. Raises BadRow if there are no tests.
    """
    if not tests:
        raise BadRow(f"the row has no tests for {entry_point!r}; it needs at least one")
    source = extract_code(response)
    if source is None:
        return _no_code()
    outcomes = run_calls(source, entry_point, [args for args, _ in tests], timeout_s=timeout_s, memory_mb=memory_mb)
    passed = [not got.error and same_value(got.value, want) for got, (_, want) in zip(outcomes, tests, strict=True)]
    faults = [got.error or f"returned {got.value!r}"[:200] for got, ok in zip(outcomes, passed, strict=True) if not ok]
    return _score(passed, faults)


def score_tests(
    response: str, entry_point: str, tests: Sequence[str], *, setup: str = "", timeout_s: float = 2.0, memory_mb: int = 512
) -> Score:
    """Like `score_calls`, for tests that are code: `assert add(1, 2) == 3`. A test passes if it raises no exception.

    setup: code that runs once before the tests. The tests are trusted and run in this process. Their entry point, also named
    `candidate`, is a stand-in that calls the jail and returns plain data. Raises BadRow if there are no tests, a test is not
    Python, or the setup fails.
    """
    if not tests:
        raise BadRow(f"the row has no tests for {entry_point!r}; it needs at least one")
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        pieces = [compile(test, "test", "exec") for test in tests]
        exec(compile(setup, "setup", "exec"), namespace)
    except Exception as error:
        raise BadRow(f"the row's tests cannot be run ({type(error).__name__}: {error})") from None
    source = extract_code(response)
    if source is None:
        return _no_code()
    passed, faults = [], []
    with Solution(source, entry_point=entry_point, timeout_s=timeout_s, memory_mb=memory_mb) as solution:
        namespace |= {entry_point: solution, "candidate": solution}
        for piece in pieces:
            try:
                exec(piece, namespace)
                passed.append(True)
            except Exception as error:  # an odd value can make a test raise anything
                passed.append(False)
                faults.append(f"{type(error).__name__}: {error}"[:200])
    return _score(passed, faults)


def score_programs(response: str, cases: Sequence[Sequence[str]], *, timeout_s: float = 2.0, memory_mb: int = 512) -> Score:
    """Like `score_calls`, for a program. cases: pairs of stdin and stdout; each runs in its own process, with timeout_s.

    Output is right if it has the same lines; white space at line ends and empty lines at the end are ignored. Raises BadRow if
    there are no cases.
    """
    if not cases:
        raise BadRow("the row has no cases to run the program on; it needs at least one")
    source = extract_code(response)
    if source is None:
        return _no_code()
    passed, faults = [], []
    for stdin, stdout in cases:
        with Solution(source, stdin=stdin, timeout_s=timeout_s, memory_mb=memory_mb) as program:
            outcome = program.receive()
        passed.append(not outcome.error and isinstance(outcome.value, str) and same_output(outcome.value, stdout))
        if not passed[-1]:
            faults.append(outcome.error or f"printed {outcome.value!r}"[:200])
    return _score(passed, faults)


def run_calls(
    source: str, entry_point: str, calls: Sequence[Sequence[Any]], *, timeout_s: float, memory_mb: int
) -> list[Outcome]:
    """Runs `source` in one new process, then entry_point(*call) for each call; the outcomes in order."""
    with Solution(source, entry_point=entry_point, timeout_s=timeout_s, memory_mb=memory_mb) as solution:
        return [solution.call(*call) for call in calls]


def same_value(value: Any, expected: Any) -> bool:
    """Whether both are equal and have the same type at every depth. Floats may differ by 1e-6 of their size; nan equals nothing.

    >>> same_value([1, (2.0, "a")], [1, (2.0, "a")]), same_value(True, 1), same_value((1,), [1])
    (True, False, False)
    """
    if type(value) is not type(expected):
        return False
    if type(value) is float:
        return math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9)
    if type(value) in (list, tuple):
        return len(value) == len(expected) and all(map(same_value, value, expected))
    if type(value) in (set, dict) and sorted(map(repr, value)) != sorted(map(repr, expected)):
        return False  # 1 == True holds for elements and keys too
    if type(value) is dict:
        return all(same_value(value[key], expected[key]) for key in expected)
    return value == expected


def same_output(printed: str, expected: str) -> bool:
    """Whether two outputs have the same lines.

    >>> same_output("1 2 \\n3\\n\\n", "1 2\\n3"), same_output("1  2", "1 2")
    (True, False)
    """
    return _lines(printed) == _lines(expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _score(passed: Sequence[bool], faults: Sequence[str]) -> Score:
    share = sum(passed) / len(passed)
    return Score(reward=float(share == 1), parts={"code": 1.0, "passed": share}, detail=faults[0] if faults else "")


def _no_code() -> Score:
    return Score(reward=0.0, parts={"code": 0.0, "passed": 0.0}, detail="no code")


def _limits(timeout_s: float, memory_mb: int) -> dict[str, int]:
    return {
        "RLIMIT_AS": memory_mb << 20,
        "RLIMIT_CPU": math.ceil(timeout_s) + 1,
        "RLIMIT_FSIZE": _FILE_BYTES,
        "RLIMIT_NOFILE": 32,
        "RLIMIT_CORE": 0,
    }

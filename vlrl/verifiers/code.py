"""Scores a Python function by calling it in a process of its own and comparing what comes back with what should.

Expected values never leave this process: the child gets the source and the arguments, and returns plain data, which is
compared here by exact type. So whatever a solution does to its process, it can only say values, and wrong ones fail.

The child has no privileges dropped and no namespaces of its own: it is limited in memory, time, files and (unless root)
processes, but it can read what its user can read, reach the network, and signal its user's processes. Against hostile
code, run the whole trainer in a container that you can lose.
"""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.processes import Child
from vlrl.tasks import BadRow
from vlrl.types import Score
from vlrl.verifiers.answers import after_reasoning
from vlrl.verifiers.code_child import decode, encode

_START_S = 30.0
_ROOT = str(Path(__file__).parents[2])
_MAIN = f"import sys; sys.path.insert(0, {_ROOT!r}); from vlrl.verifiers.code_child import main; sys.path.pop(0); main()"
_FENCE = "```python"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one call: the value returned, or in `error` why there is none."""

    value: Any = None
    error: str = ""


def extract_code(response: str) -> str | None:
    """The last ```python block after the reasoning, or all of the text where it starts with `def `; None without either.

    As with boxed answers only the last block counts: where it is not closed, the response has no code.
    """
    text = after_reasoning(response).strip()
    if _FENCE not in text:
        return text if text.startswith("def ") else None
    code, fence, _ = text.rpartition(_FENCE)[2].partition("```")
    return code.strip("\n") if fence else None


def score_calls(
    response: str, entry_point: str, tests: Sequence[Sequence[Any]], *, timeout_s: float = 2.0, memory_mb: int = 512
) -> Score:
    """Reward 1 where the response's function passes every test, else 0; parts: has code, share of tests passed.

    tests: (arguments, expected value) each. Code that crashes, loops or exits has failed: that is a score, not an error.
    BadRow where there are no tests.
    """
    if not tests:
        raise BadRow(f"the row has no tests for {entry_point!r}")
    source = extract_code(response)
    if source is None:
        return Score(reward=0.0, parts={"code": 0.0, "passed": 0.0}, detail="no code")
    outcomes = run_calls(source, entry_point, [args for args, _ in tests], timeout_s=timeout_s, memory_mb=memory_mb)
    passed = [not got.error and same_value(got.value, want) for got, (_, want) in zip(outcomes, tests, strict=True)]
    share = sum(passed) / len(passed)
    detail = next((got.error or f"returned {got.value!r}"[:200] for got, ok in zip(outcomes, passed, strict=True) if not ok), "")
    return Score(reward=float(share == 1), parts={"code": 1.0, "passed": share}, detail=detail)


def run_calls(
    source: str, entry_point: str, calls: Sequence[Sequence[Any]], *, timeout_s: float, memory_mb: int
) -> list[Outcome]:
    """The outcome of entry_point(*call) for each call, in order, all in one fresh process that defines `source` first.

    timeout_s: for all calls together, from when the process is ready; calls after it have the error "timeout".
    RuntimeError where the process itself could not be started, which is never the solution's fault.
    """
    job = {"source": source, "entry_point": entry_point, "calls": [encode(list(call)) for call in calls]}
    argv = [sys.executable, "-I", "-S", "-B", "-c", _MAIN]
    env = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    child = Child(argv, limits=_limits(timeout_s, memory_mb), env=env, cwd="/")
    try:
        _start(child, json.dumps(job).encode())
        deadline = time.monotonic() + timeout_s
        return [_outcome(child, deadline) for _ in calls]
    finally:
        child.kill()


def same_value(value: Any, expected: Any) -> bool:
    """Whether both are equal, and of the same type at every depth; floats within 1e-6 of their size, nan equal to nothing.

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
        return False  # 1 == True also as an element or a key
    if type(value) is dict:
        return all(same_value(value[key], expected[key]) for key in expected)
    return value == expected


def _limits(timeout_s: float, memory_mb: int) -> dict[int, int]:
    return {
        resource.RLIMIT_AS: memory_mb << 20,
        resource.RLIMIT_CPU: math.ceil(timeout_s) + 1,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }


def _start(child: Child, job: bytes) -> None:
    try:
        child.send(job)
        child.receive(time.monotonic() + _START_S)
    except (EOFError, OSError) as error:
        raise RuntimeError(f"the process for a solution did not start ({error!r}, exit code {child.kill()})") from error


def _outcome(child: Child, deadline: float) -> Outcome:
    try:
        reply = json.loads(child.receive(deadline))
        return Outcome(error=str(reply["error"])) if "error" in reply else Outcome(value=decode(reply["value"]))
    except TimeoutError:
        return Outcome(error="timeout")
    except EOFError:
        return Outcome(error="the process ended, or returned too much")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:  # the solution wrote to the pipe itself
        return Outcome(error=f"unreadable reply ({type(error).__name__})")

"""Scores a model's code: runs it in a jail and compares what it returns or prints.

Tests and expected values never leave this process. Values are compared here, by content and exact type, so a solution can only
pass by returning the right ones. Tests that are code run in this process, a scoring worker, which is killed if they do not end.
"""

import ast
import datetime
import json
import math
import re
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from types import CodeType
from typing import Any

from vlrl.tasks import BadRow
from vlrl.types import Score
from vlrl.verifiers.code_blocks import extract_code
from vlrl.verifiers.outputs import same_output
from vlrl.verifiers.solutions import Outcome, Remote, Solution

_SPARE_OUTPUT = 1 << 16  # bytes that a program may print beyond four times the expected output
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")


def score_calls(
    response: str, entry_point: str, tests: Sequence[Sequence[Any]], *, timeout_s: float = 2.0, memory_mb: int = 512
) -> Score:
    """Scores a function: reward 1 if it passes every test, otherwise 0.

    tests: pairs of arguments and expected value. What JSON cannot hold matches what it holds in its place: a tuple a list, a
    Decimal a number, a date its ISO text. The score's parts are code (1 if the response has code) and passed (the share of
    tests). Code that crashes, loops or exits fails its tests; the status is still OK. Raises BadRow if there are no tests.
    """
    if not tests:
        raise BadRow(f"the row has no tests for {entry_point!r}; it needs at least one")
    source = extract_code(response)
    if source is None:
        return _no_code()
    outcomes = run_calls(source, entry_point, [args for args, _ in tests], timeout_s=timeout_s, memory_mb=memory_mb)
    passed = [
        not got.error and same_value(_as_json_has_it(got.value, want), want)
        for got, (_, want) in zip(outcomes, tests, strict=True)
    ]
    faults = [got.error or f"returned {_shown(got.value)}" for got, ok in zip(outcomes, passed, strict=True) if not ok]
    return _score(passed, faults)


def score_tests(
    response: str, entry_point: str, tests: Sequence[str], *, setup: str = "", timeout_s: float = 2.0, memory_mb: int = 512
) -> Score:
    """Like `score_calls`, for tests that are code: `assert add(1, 2) == 3`. A test passes if it raises no exception.

    entry_point: the name of a function or a class, or an expression such as `Solution().add`. setup: code that runs once before
    the tests. The tests are trusted and run in this process. Their entry point, also named `candidate`, is a stand-in that calls
    the jail and returns plain data. If a test defines `check`, or functions named `test...`, that nothing calls, they are called.
    Raises BadRow if there are no tests, a test is not Python, the setup fails, or the tests never call the solution.
    """
    if not tests:
        raise BadRow(f"the row has no tests for {entry_point!r}; it needs at least one")
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        pieces = _compiled(tests)
        exec(compile(setup, "setup", "exec", dont_inherit=True), namespace)
    except Exception as error:
        raise BadRow(f"the row's tests cannot be run ({type(error).__name__}: {error})") from None
    source = extract_code(response)
    if source is None:
        return _no_code()
    passed, faults = [], []
    with Solution(source, entry_point=entry_point, timeout_s=timeout_s, memory_mb=memory_mb) as solution:
        root = re.split(r"\W", entry_point)[0]
        namespace |= {"Solution": Remote(solution, "Solution")} if "Solution" not in namespace else {}
        namespace |= {root: Remote(solution, root), "candidate": Remote(solution, entry_point)}
        for piece in pieces:
            try:
                exec(piece, namespace)
                passed.append(True)
            except Exception as error:  # an odd value can make a test raise anything
                passed.append(False)
                faults.append(f"{type(error).__name__}: {error}")
    if not solution.calls:
        raise BadRow(
            f"the row's tests never call {entry_point!r}{': ' * bool(faults)}{''.join(faults[:1])}; call it by that name"
        )
    return _score(passed, faults)


def score_programs(
    response: str, cases: Sequence[Sequence[str]], *, tolerance: float = 0.0, timeout_s: float = 2.0, memory_mb: int = 512
) -> Score:
    """Like `score_calls`, for a program. cases: pairs of stdin and stdout; each runs in its own process, with timeout_s.

    Outputs are compared by `same_output`. tolerance: the allowed error of numbers that are not whole. A program must exit with
    code 0. Raises BadRow if there are no cases.
    """
    if not cases:
        raise BadRow("the row has no cases to run the program on; it needs at least one")
    source = extract_code(response)
    if source is None:
        return _no_code()
    passed, faults = [], []
    for stdin, stdout in cases:
        with Solution(source, stdin=stdin, timeout_s=timeout_s, memory_mb=memory_mb) as program:
            outcome = program.output(4 * len(stdout.encode()) + _SPARE_OUTPUT)
        passed.append(not outcome.error and same_output(outcome.value, stdout, tolerance))
        if not passed[-1]:
            printed = f"printed {outcome.value!r}" if outcome.value else "the process ended without output"
            faults.append(outcome.error or printed)
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
    if type(value) in (list, tuple, deque):
        return len(value) == len(expected) and all(map(same_value, value, expected))
    if type(value) in (set, frozenset, dict, Counter):
        own = {key: key for key in value}  # 1 == True holds for elements and keys too
        if len(own) != len(expected) or not all(key in own and same_value(own[key], key) for key in expected):
            return False
    if type(value) in (dict, Counter):
        return all(same_value(value[key], expected[key]) for key in expected)
    return value == expected


def _as_json_has_it(value: Any, expected: Any) -> Any:
    """The value with what JSON would hold in its place, wherever the expected value has that; anything else is left alone."""
    kind = type(expected)
    if kind is list and (isinstance(value, list | tuple) or type(value) in (deque, range)) and len(value) == len(expected):
        return [_as_json_has_it(item, want) for item, want in zip(value, expected, strict=True)]
    if kind is dict and isinstance(value, dict):
        texts = {_key_text(key): item for key, item in value.items()}
        if len(texts) == len(value) and texts.keys() == expected.keys():
            return {key: _as_json_has_it(texts[key], want) for key, want in expected.items()}
    if type(value) in (Decimal, Fraction) and kind is int and value == expected:
        return expected
    if type(value) in (Decimal, Fraction) and kind is float:
        with suppress(OverflowError):
            return float(value)
    if kind is str and type(value) in (datetime.datetime, datetime.date, datetime.time):
        return str(value) if str(value) == expected else value.isoformat()
    return value


def _key_text(key: Any) -> Any:
    """A number, bool or None as JSON writes it for a key of an object; other keys as they are."""
    with suppress(ValueError):  # a number of more than 4,300 digits
        return json.dumps(key) if type(key) in (int, float, bool, type(None)) else key
    return key


def _compiled(tests: Sequence[str]) -> list[CodeType]:
    """The tests' code. Calls of `check` and of functions named `test...` are added where nothing calls these."""
    trees = [ast.parse(test, "test") for test in tests]
    calls = [node.func for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    for tree in trees:
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name not in called and (call := _call_of(node)):
                tree.body += ast.parse(call).body
    return [compile(tree, "test", "exec", dont_inherit=True) for tree in trees]


def _call_of(function: ast.FunctionDef) -> str:
    """The call that a test's function is written for; empty if it is for something else."""
    required = len(function.args.args) - len(function.args.defaults)
    if function.name == "check" and required == 1:
        return "check(candidate)"
    return f"{function.name}()" if function.name.startswith(("check", "test")) and not required else ""


def _score(passed: Sequence[bool], faults: Sequence[str]) -> Score:
    share = sum(passed) / len(passed)
    detail = _ADDRESS.sub("at 0x...", faults[0])[:200] if faults else ""  # equal for equal runs
    return Score(reward=float(share == 1), parts={"code": 1.0, "passed": share}, detail=detail)


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes no whole numbers of more than 4,300 digits
        return "a number that is too long to show"


def _no_code() -> Score:
    return Score(reward=0.0, parts={"code": 0.0, "passed": 0.0}, detail="no code")

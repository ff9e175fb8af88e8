"""The code verifier: right functions pass, wrong ones fail whatever they do to their process."""

import doctest
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S, needs_a_jail
from vlrl.sandbox import code_child, jail
from vlrl.tasks import BadRow
from vlrl.types import Status
from vlrl.verifiers import code
from vlrl.verifiers.code import extract_code, run_calls, same_value, score_calls, score_programs, score_tests

ADD = [((1, 2), 3), ((-4, 4), 0), ((10, 32), 42)]
RIGHT = "def add(a, b):\n    return a + b\n"

ATTACKS = {
    "exits": "import sys\ndef add(a, b): sys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits after one right answer": """
import os
calls = []
def add(a, b):
    calls.append(a)
    len(calls) > 1 and os._exit(0)
    return a + b""",
    "exit handler": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef add(a, b): pass",
    "interrupt": "def add(a, b): raise KeyboardInterrupt",
    "always equal": """
class Always(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def add(a, b): return Always(7)""",
    "right, as a subclass": "class I(int): pass\ndef add(a, b): return I(a + b)",
    "right, as text": "def add(a, b): return str(a + b)",
    "right, as a float": "def add(a, b): return float(a + b)",
    "not data": "def add(a, b): return lambda: a + b",
    "coroutine": "async def add(a, b): return a + b",
    "nan": "def add(a, b): return float('nan')",
    "patched builtins": "import builtins\nbuiltins.type = lambda x: int\nbuiltins.all = lambda x: True\ndef add(a, b): pass",
    "patched json": "import json\njson.dumps = lambda x: '{\"passed\": true}'\ndef add(a, b): return None",
    "prints a verdict": "print('{\"value\": 3}')\ndef add(a, b): print('{\"value\": 3}')",
    "writes to every pipe": """
import os
for fd in range(3, 32):
    try: os.write(fd, b'{"value": 3}\\n' * 3)
    except OSError: pass
def add(a, b): pass""",
    "writes junk to every pipe": """
import os
for fd in range(3, 32):
    try: os.write(fd, b'[' * 50000 + b'\\n7\\n{"value": {}}\\n')
    except OSError: pass
def add(a, b): return a + b""",
    "closes every pipe": "import os\nos.closerange(0, 64)\ndef add(a, b): return a + b",
    "deep value": "def add(a, b):\n    r = []\n    for _ in range(100000): r = [r]\n    return r",
    "wide value": "def add(a, b): return [0] * 1000000",
    "memory": "def add(a, b): return a + b - len(bytearray(1 << 40))",
    "bad syntax": "def add(a, b)\n    return a + b",
    "another name": "def sub(a, b): return a + b",
    "null byte": "def add(a, b):\n    return a + b\0",
    "lone surrogate": "def add(a, b):\n    return '\ud800'",
}


def score(source, tests=ADD, timeout_s=PATIENCE_S, **limits):
    return score_calls(f"```python\n{source}\n```", "add", tests, timeout_s=timeout_s, **limits)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(code).failed + doctest.testmod(code_child).failed == 0


def test_a_right_function_passes_and_a_wrong_one_fails():
    assert score(RIGHT).reward == 1.0
    wrong = score("def add(a, b):\n    return 3")
    assert (wrong.reward, wrong.parts["passed"], wrong.detail) == (0.0, 1 / 3, "returned 3")


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_a_wrong_answer(attack):
    result = score(attack, memory_mb=256)
    assert (result.reward, result.status) == (0.0, Status.OK)
    assert result.detail


@pytest.mark.parametrize("body", ["while True: pass", "sum(range(10**12))", "import time; time.sleep(10**6)"])
def test_a_loop_is_a_wrong_answer_once_its_time_is_over(body):
    result = score(f"def add(a, b):\n    {body}", timeout_s=0.2)
    assert (result.reward, result.status, result.detail) == (0.0, Status.OK, "timeout")


def test_calls_before_the_loop_keep_their_outcomes():
    outcomes = run_calls("def f(x):\n    while x: pass\n    return 1", "f", [(0,), (1,), (0,)], timeout_s=2, memory_mb=256)
    assert [outcome.value for outcome in outcomes] == [1, None, None]
    assert [outcome.error for outcome in outcomes] == ["", "timeout", "timeout"]


def test_plain_data_comes_back_with_its_types():
    value = {"a": [1, True, None, 1.5], (1, "b"): {2, 3}, 3: ({},)}
    (outcome,) = run_calls("def f(x): return x", "f", [(value,)], timeout_s=PATIENCE_S, memory_mb=256)
    assert outcome.value == value
    assert same_value(outcome.value, value)


def test_a_call_cannot_change_the_arguments_of_the_next():
    source = "def f(x):\n    x.append(0)\n    return len(x)"
    shared = [1]
    assert [got.value for got in run_calls(source, "f", [(shared,), (shared,)], timeout_s=PATIENCE_S, memory_mb=256)] == [2, 2]


@needs_a_jail
def test_the_child_has_no_environment_and_writes_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    source = """
import os
def f(path):
    if 'SECRET_TOKEN' in os.environ: return 'secret'
    open(path, 'wb', buffering=0).write(b'x')"""
    (outcome,) = run_calls(source, "f", [(str(tmp_path / "file"),)], timeout_s=PATIENCE_S, memory_mb=256)
    assert "No such file or directory" in outcome.error


def test_a_process_that_cannot_start_is_not_the_solutions_fault(monkeypatch):
    monkeypatch.setenv(jail.ISOLATION, "jail")
    monkeypatch.setattr(jail, "_working_jail", lambda: (["/bin/false"], None))
    with pytest.raises(RuntimeError, match="did not start"):
        run_calls(RIGHT, "add", [(1, 2)], timeout_s=PATIENCE_S, memory_mb=256)


def test_a_process_that_cannot_be_confined_runs_nothing(monkeypatch):
    monkeypatch.setattr(jail, "_filter", lambda threads: "AAAAAAAAAAA=")
    with pytest.raises(RuntimeError, match="cannot confine itself"):
        run_calls(RIGHT, "add", [(1, 2)], timeout_s=PATIENCE_S, memory_mb=256)


def test_a_machine_that_cannot_jail_says_what_to_allow(monkeypatch):
    monkeypatch.setenv(jail.ISOLATION, "jail")
    monkeypatch.setattr(jail, "_bwrap", lambda: "/bin/false")
    monkeypatch.setattr(jail, "_working_jail", jail._working_jail.__wrapped__)
    assert "cannot jail a model's code" in jail.unavailable_reason() and "scoring.isolation: limits" in jail.unavailable_reason()
    with pytest.raises(jail.SandboxError):
        run_calls(RIGHT, "add", [(1, 2)], timeout_s=PATIENCE_S, memory_mb=256)


def test_another_isolation_is_used_only_where_it_is_named(monkeypatch):
    monkeypatch.setenv(jail.ISOLATION, "limits")
    source = "import os\ndef f(x):\n    os.stat(x)\n    return os.fork()"
    (outcome,) = run_calls(source, "f", [("/etc/passwd",)], timeout_s=PATIENCE_S, memory_mb=256)
    assert "Operation not permitted" in outcome.error
    monkeypatch.setenv(jail.ISOLATION, "none")
    with pytest.raises(jail.SandboxError, match="set it to jail or limits"):
        run_calls(RIGHT, "add", [(1, 2)], timeout_s=PATIENCE_S, memory_mb=256)


OUTSIDE = {
    "the network": "import socket; socket.create_connection(('127.0.0.1', 9))",
    "a socket": "import socket; socket.socketpair()",
    "a process": "import os; os.fork()",
    "a program": "import os; os.execv('/bin/true', ['true'])",
    "a thread": "import threading; threading.Thread(target=print).start()",
    "a signal": "import os; os.kill(1, 9)",
    "a debugger": "import ctypes\n    if ctypes.CDLL(None).ptrace(16, 1, 0, 0): raise OSError('not traced')",
    "a user's file": "open('/etc/passwd')",
    "the system": "open('/usr/new', 'w')",
    "a large file": "open('/tmp/large', 'wb').write(b'x' * (9 << 20))",
    "a higher limit": "import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
    "root": "import os; os.setuid(0)",
}


@needs_a_jail
@pytest.mark.parametrize("body", OUTSIDE.values(), ids=OUTSIDE)
def test_a_jail_keeps_code_from(body):
    (outcome,) = run_calls(f"def f():\n    {body}\n    return 1", "f", [()], timeout_s=PATIENCE_S, memory_mb=512)
    assert outcome.error.split(":")[0].endswith("Error"), outcome
    assert "ModuleNotFound" not in outcome.error


@needs_a_jail
def test_a_jail_sees_no_process_but_its_own_and_leaves_none():
    source = "import os\ndef f():\n    return [os.getuid(), len([p for p in os.listdir('/proc') if p.isdigit()])]"
    (outcome,) = run_calls(source, "f", [()], timeout_s=PATIENCE_S, memory_mb=256)
    assert outcome.value == [65534, 2]
    before = _bubblewraps()
    for _ in range(3):
        run_calls("def f():\n    while True: pass", "f", [()], timeout_s=0.05, memory_mb=256)
    assert _bubblewraps() == before


def _bubblewraps() -> int:
    """The number of copies of this process once the standby pool is full."""
    counts = [-1, -2]
    while counts[-1] != counts[-2]:
        time.sleep(0.5)
        counts.append(sum(status.startswith("bwrap ") for status in _children()))
    return counts[-1]


def _children() -> list[str]:
    """The names of this process's children, and what /proc says of each after it."""
    statuses = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            statuses.append(path.read_text().partition("(")[2].replace(")", "", 1))
    return [status for status in statuses if status.split()[2] == str(os.getpid())]


@pytest.mark.parametrize(
    ("value", "expected", "same"),
    [
        (1, True, False),
        (1.0, 1, False),
        ([1], (1,), False),
        ({1}, {True}, False),
        ({1: 0}, {True: 0}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": True}, False),
        ({3, 1}, {1, 3}, True),
        (0.1 + 0.2, 0.3, True),
        (1.0, 1.001, False),
        (float("nan"), float("nan"), False),
        (float("inf"), float("inf"), True),
        ([1, 2], [1, 2, 3], False),
    ],
)
def test_values_are_the_same_in_type_too(value, expected, same):
    assert same_value(value, expected) == same


@pytest.mark.parametrize(
    ("response", "source"),
    [
        ("```python\nx = 1\n```\nor\n```python\ny = 2\n```\ndone", "y = 2"),
        ("```python\nx = 1\n```\nor\n```python\ny = 2", None),
        ("def f(): return 1", "def f(): return 1"),
        ("The function adds.", None),
        ("<think>```python\nx = 1\n```</think> none", None),
        ("<think>hm</think>\ndef f(): return 1\n", "def f(): return 1"),
    ],
)
def test_the_last_block_after_the_reasoning_is_the_code(response, source):
    assert extract_code(response) == source


def test_a_response_without_code_is_wrong():
    assert score_calls("It adds.", "add", ADD).parts == {"code": 0.0, "passed": 0.0}


def test_a_row_without_tests_is_the_rows_fault():
    with pytest.raises(BadRow, match="no tests for 'add'"):
        score(RIGHT, tests=[])


def test_plain_data_of_the_standard_library_crosses():
    source = "from collections import Counter\ndef f(x): return [Counter(x), complex(1, 2), frozenset(x)]"
    (outcome,) = run_calls(source, "f", [("aab",)], timeout_s=PATIENCE_S, memory_mb=256)
    assert outcome.value == [{"a": 2, "b": 1}, 1 + 2j, frozenset("ab")]


def test_tests_that_are_code_call_the_jail():
    tests = ["assert add(1, b=2) == 3", "assert candidate(*[one, 1]) == 2"]
    assert score_tests(f"```python\n{RIGHT}\n```", "add", tests, setup="one = 1").parts == {"code": 1.0, "passed": 1.0}
    half = score_tests("```python\ndef add(a, b): return 3\n```", "add", tests, setup="one = 1")
    assert (half.reward, half.parts["passed"]) == (0.0, 0.5)


def test_tests_that_cannot_be_run_are_the_rows_fault():
    for tests, setup in ((["assert ("], ""), (["assert add(1, 2)"], "import nothing_of_that_name"), ([], "")):
        with pytest.raises(BadRow):
            score_tests(RIGHT, "add", tests, setup=setup)


PROGRAM = """```python
import sys
n = int(input())
sys.stdout.buffer.write(b"%d\\n" % sum(map(int, sys.stdin.read().split()[:n])))
```"""


def test_a_program_is_run_on_every_case():
    assert score_programs(PROGRAM, [("2\n3 4\n", "7"), ("1\n5\n", "5\n\n")], timeout_s=PATIENCE_S).reward == 1.0
    assert score_programs(PROGRAM, [("2\n3 4\n", "7"), ("1\n5\n", "6")], timeout_s=PATIENCE_S).parts["passed"] == 0.5


@pytest.mark.parametrize(
    ("body", "timeout_s", "fault"),
    [
        ("print('x' * (1 << 20))", PATIENCE_S, "bytes of output"),
        ("while True: pass", 0.5, "timeout"),
        ("raise SystemExit(1)", PATIENCE_S, "SystemExit"),
        ("import os; os._exit(0)", PATIENCE_S, "the process ended"),
    ],
)
def test_a_program_that_ends_badly_is_wrong(body, timeout_s, fault):
    score = score_programs(f"```python\n{body}\n```", [("", "7")], timeout_s=timeout_s)
    assert (score.reward, score.status) == (0.0, Status.OK)
    assert fault in score.detail


def test_a_program_may_exit():
    assert score_programs("```python\nimport sys\nprint(7)\nsys.exit(0)\n```", [("", "7")], timeout_s=PATIENCE_S).reward == 1.0

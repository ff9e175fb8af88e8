"""Programs that read stdin: right ones are paid whatever way they read, write and end, and attacks are not."""

import pytest

from tests.conftest import PATIENCE_S, needs_a_jail
from tests.verifiers.cases import cases
from vlrl.types import Score, Status
from vlrl.verifiers.code import score_programs

CASES = [("3\n1 2 3\n", "6\n"), ("2\n10 20\n", "30")]
MEMORY_MB = 1024


def of_kind(kind: str) -> list:
    return [pytest.param(case["program"], id=case["name"]) for case in cases("programs") if case["kind"] == kind]


def scored(source: str, pairs=CASES, timeout_s: float = PATIENCE_S, **settings) -> Score:
    return score_programs(f"```python\n{source}\n```", pairs, timeout_s=timeout_s, memory_mb=MEMORY_MB, **settings)


@pytest.mark.parametrize("program", of_kind("honest"))
def test_an_honest_program_is_paid(program):
    score = scored(program)
    assert (score.reward, score.status) == (1.0, Status.OK), score.detail


@pytest.mark.parametrize("program", of_kind("wrong"))
def test_a_wrong_program_is_not_paid(program):
    score = scored(program)
    assert (score.reward, score.status) == (0.0, Status.OK)
    assert score.detail


@needs_a_jail
@pytest.mark.parametrize("body", of_kind("outside"))
def test_a_jail_keeps_a_program_from(body):
    score = scored(f"s = sum(map(int, open(0).read().split()[1:]))\n{body}\nprint(s)", CASES[:1])
    assert score.reward == 0.0
    assert score.detail.partition(":")[0].endswith("Error"), score.detail


def test_a_program_may_print_megabytes_where_they_are_expected():
    lines = 200_000
    program = f"for n in range({lines}): print('%019d' % n)"
    expected = "".join(f"{n:019}\n" for n in range(lines))
    assert scored(program, [("", expected)]).reward == 1.0
    assert "bytes of output" in scored(program, [("", "7")]).detail


def test_a_program_reads_megabytes():
    assert scored("import sys\nprint(len(sys.stdin.read()))", [("12 " * 10**6, "3000000")]).reward == 1.0


def test_a_thread_with_a_large_stack_recurses_deeply():
    program = "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
    program += "def f(n): return 0 if n == 0 else 1 + f(n - 1)\nthreading.Thread(target=lambda: print(f(10**5))).start()"
    assert scored(program, [("", "100000")]).reward == 1.0


@pytest.mark.parametrize(
    "program", ["1 / 0", "import os\nos._exit(3)", "print(object())", "print({'a', 'b', 'c', 'd', 'e'})", "exit(5)"]
)
def test_a_wrong_program_is_described_in_the_same_words_each_time(program):
    assert len({scored(program, CASES[:1]).detail for _ in range(3)}) == 1

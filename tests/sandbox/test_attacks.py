"""Attacks on code rewards get nothing, honest solutions all; both in the jail, with tests that are code."""

import pytest

from tests.conftest import PATIENCE_S, needs_a_jail
from tests.verifiers.cases import cases
from tests.verifiers.made_problems import problems
from vlrl.types import Score, Status
from vlrl.verifiers.code import score_tests

TESTS = {
    "total": ["assert total([1, 2, 3]) == 6", "assert total([]) == 0", "assert total([-5, 40]) == 35"],
    "mean": ["assert abs(mean([1, 2]) - 1.5) < 1e-6", "assert abs(mean([10, 20, 60]) - 30.0) < 1e-6"],
}


def scored(solution: str, timeout_s: float = PATIENCE_S) -> Score:
    entry_point = "mean" if "def mean" in solution else "total"
    return score_tests(f"```python\n{solution}\n```", entry_point, TESTS[entry_point], timeout_s=timeout_s)


def name_of(case: dict) -> str:
    return case["name"]


@needs_a_jail
@pytest.mark.parametrize("case", cases("attacks"), ids=name_of)
def test_an_attack_is_paid_nothing(case):
    score = scored(case["solution"], timeout_s=0.5 if case["kind"] == "endless" else PATIENCE_S)
    assert (score.reward, score.status) == (0.0, Status.OK), score.detail


@pytest.mark.parametrize("case", cases("honest"), ids=name_of)
def test_an_honest_solution_is_paid_in_full(case):
    score = scored(case["solution"])
    assert (score.reward, score.status) == (1.0, Status.OK), score.detail


def paid(problem, body: str) -> float:
    response = f"```python\n{problem.prompt}{body}\n```"
    return score_tests(response, problem.entry_point, [problem.test], setup=problem.setup, timeout_s=PATIENCE_S).reward


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(problems())))
def test_a_problem_is_solved_by_its_own_body_and_by_no_other_s(number):
    problem, other = problems()[number], problems()[number - 1]
    assert paid(problem, problem.body) == 1.0
    assert paid(problem, other.body) == 0.0

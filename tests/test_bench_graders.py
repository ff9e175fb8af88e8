"""vlrl's verifiers on the cases of bench/cases: what they pay and refuse wrongly may only become less. And the bench runs."""

import json
from collections import Counter
from math import inf

import pytest

from bench.grader_cases import CASES, Case, written_cases
from bench.graders import judged, verdicts
from tests.loop import finished, python
from vlrl.types import Row

# task: how many wrong cases are paid, and how many right ones refused; lower a number when a verifier improves
FAULTS = {
    "chart": (0, 0),
    "counting": (0, 0),
    "math_expression": (0, 4),
    "math_number": (0, 2),
    "multiple_choice": (0, 0),
    "true_false": (0, 0),
}
NO_WRONG_TWIN = {"dress", "unit", "equation", "whole response", "letter"}  # other kinds of the same task have the wrong answers


def plain(task: str, answer: str, response: str, expected: float) -> Case:
    return Case(group=task, task=task, kind="", response=response, row=Row(answer=answer), expected=expected)


@pytest.mark.slow
@pytest.mark.parametrize("task", FAULTS)
def test_no_more_cases_are_paid_or_refused_wrongly_than_before(task):
    found: Counter[float] = Counter()
    for case in written_cases():
        if case.task == task:
            reward, _ = judged("vlrl", case)
            found[case.expected] += (reward or 0.0) != case.expected  # no reward for an unreadable reference
    paid, refused = FAULTS[task]
    assert found[0.0] <= paid and found[1.0] <= refused


def test_every_task_with_cases_has_its_faults_counted():
    assert {path.stem for path in CASES.glob("*.jsonl")} == FAULTS.keys()


def test_cases_differ_and_right_ones_have_wrong_ones_that_look_alike():
    cases = list(written_cases())
    assert len({(case.task, case.response, str(case.row)) for case in cases}) == len(cases)
    with_wrong = {(case.task, case.kind) for case in cases if case.expected == 0}
    assert {case.kind for case in cases if (case.task, case.kind) not in with_wrong} <= NO_WRONG_TWIN


@pytest.mark.slow
def test_a_case_beyond_the_time_limit_is_late_and_the_next_one_is_graded():
    tower = plain("math_number", "7", "\\boxed{9^{9^{9^{9}}}}", 0)
    easy = plain("math_number", "7", "\\boxed{7}", 1)
    late, graded = verdicts("math-verify", [easy, tower, easy], timeout_s=2)[1:]
    assert late.late and late.reward == 0 and graded.reward == 1 and graded.seconds < inf


@pytest.mark.slow
def test_the_graders_are_counted_side_by_side(tmp_path):
    rows = [
        ("7", "\\boxed{7}", 1),
        ("7", "\\boxed{8}", 0),
        ("x + y", "\\boxed{y + x}", 1),
        ("385", "\\boxed{\\sum_{k=1}^{10} k^2}", 0),
    ]
    lines = [
        json.dumps({"response": response, "row": {"answer": gold}, "expected": expected}) for gold, response, expected in rows
    ]
    (tmp_path / "math_expression.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out.json"
    printed = finished(
        python("-m", "bench.graders", "--cases", tmp_path, "--items", "1", "--wrong", "math-verify", "--json", out)
    )
    table = json.loads(out.read_text())["table"]
    assert (table["math_expression"]["vlrl"]["right"], table["math_expression"]["math-verify"]["paid_wrongly"]) == (4, 1)
    assert "k^2" in printed and table["reasoning-gym's puzzles"].keys() == {"vlrl", "reasoning-gym"}

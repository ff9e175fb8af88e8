"""Published attacks on code rewards, honest solutions, and solutions of HumanEval, MBPP and CRUXEval: each has its verdict."""

import json

import pytest

from tests.conftest import PATIENCE_S, SHARED, needs_a_jail
from vlrl.tasks import BadRow
from vlrl.types import Status
from vlrl.verifiers.code import score_tests
from vlrl.verifiers.literals import same_literal


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in (SHARED / path).read_text().splitlines()]


def fenced(source: str) -> str:
    return f"```python\n{source}\n```"


@needs_a_jail
@pytest.mark.parametrize("case", lines("vectors/code_attacks.jsonl"), ids=lambda case: case["name"])
def test_an_attack_fails_and_an_honest_solution_passes(case):
    timeout_s = PATIENCE_S if case["expected_reward"] else 4.0  # of the attacks, some never end
    score = score_tests(fenced(case["solution"]), case["entry_point"], case["tests"], timeout_s=timeout_s)
    assert (score.reward, score.status) == (case["expected_reward"], Status.OK), score.detail


def humaneval() -> dict[str, dict]:
    return {row["task_id"]: row for row in lines("data/code/humaneval_164.jsonl")}


def humaneval_score(row: dict, completion: str) -> float:
    tests, setup = [row["test"] + "\ncheck(candidate)"], row["prompt"] + "\n    pass"  # what the prompt defines beside the stub
    return score_tests(fenced(row["prompt"] + completion), row["entry_point"], tests, setup=setup, timeout_s=PATIENCE_S).reward


@pytest.mark.slow
@pytest.mark.parametrize("name", humaneval())
def test_humaneval_s_own_solution_passes(name):
    row = humaneval()[name]
    assert humaneval_score(row, row["canonical_solution"]) == 1.0


@pytest.mark.slow
def test_the_body_of_another_humaneval_problem_fails():
    rows = list(humaneval().values())
    passed = [
        row["task_id"]
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True)
        if humaneval_score(row, other["canonical_solution"])
    ]
    assert passed == []


@pytest.mark.slow
def test_mbpp_s_own_solutions_pass_but_for_a_class_that_the_tests_need():
    failed = []
    for row in lines("data/code/mbpp_test_11_510.jsonl"):
        name = row["test_list"][0].split("assert ")[1].lstrip("(").split("(")[0]
        name = name if f"def {name}" in row["code"] else row["code"].split("def ")[-1].split("(")[0]
        try:
            score = score_tests(fenced(row["code"]), name, row["test_list"], setup=row["test_setup_code"], timeout_s=PATIENCE_S)
        except BadRow as fault:
            failed.append((row["task_id"], str(fault)))
        else:
            failed += [(row["task_id"], score.detail)] * (not score.reward)
    assert [number for number, _ in failed] in ([], [367]), failed


def test_outputs_of_cruxeval_pass_and_their_neighbours_do_not():
    golds = [row["output"] for row in lines("data/code/cruxeval_400.jsonl")]
    assert all(same_literal(gold, gold) for gold in golds)
    assert not any(same_literal(one, other) for one, other in zip(golds, golds[1:], strict=False) if one != other)

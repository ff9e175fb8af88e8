"""Recipes of text sets on the hub, on records of their published form that were made up here, built end to end."""

import base64
import json
import os
import pickle
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from vlrl.data.build import build
from vlrl.data.recipe import load_recipe
from vlrl.tasks import gold, load_task, score_response
from vlrl.types import Status

ROOT = Path(__file__).parents[2]
WRAPPED = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
    "(without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
SQUARES = "n = int(input())\nprint(n * n)"


def private(cases: list[dict]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def case(stdin: str, stdout: str, testtype: str = "stdin") -> dict:
    return {"input": stdin, "output": stdout, "testtype": testtype}


def dapo(problem: str, answer: str) -> dict:
    return {"prompt": [{"role": "user", "content": WRAPPED.format(problem)}], "reward_model": {"ground_truth": answer}}


def contest(name: str, **changes) -> dict:
    tests = {"input": ["2\n", "3\n"], "output": ["4\n", "9\n"]}
    few, none = {"input": ["5\n", "9" * 30_000], "output": ["25\n", "1"]}, {"input": [], "output": []}
    return {
        "name": name,
        "description": f"Square the number ({name}).",
        "input_file": "",
        "output_file": "",
        "public_tests": tests,
        "private_tests": few,
        "generated_tests": none,
        "solutions": {"language": [2, 3, 3], "solution": ["int main() {}", f"# long\n{SQUARES}", SQUARES]},
    } | changes


def live(number: int, **changes) -> dict:
    return {
        "question_id": number,
        "question_content": f"Square the number (number {number}).",
        "starter_code": "",
        "contest_date": "2025-02-01T00:00:00",
        "difficulty": "easy",
        "public_test_cases": json.dumps([case("2\n", "4\n")]),
        "private_test_cases": private([case("3\n", "9\n")]),
    } | changes


def zebra(number: int, cell: str) -> dict:
    solution = {"header": ["House", "Name", "Pet"], "rows": [["1", "Eric", "cat"], ["2", "Arnold", cell]]}
    return {"id": f"lgp-{number}", "size": "2*2", "puzzle": f"There are 2 houses ({number}).", "solution": solution}


def aqua(number: int, options: list[str], correct: str) -> dict:
    return {"question": f"What is {number} + 1?", "options": options, "correct": correct, "rationale": ""}


# Each recipe's records, its rows, and how many are left out for which reason.
SETS = {
    "aime25": ([{"problem": "Find m+n.", "answer": 70}, {"problem": "Find the remainder.", "answer": "082"}], 2, {}),
    "hmmt25": (
        [{"problem": "Compute $1/576$.", "answer": "\\frac{1}{576}"}, {"problem": "x?", "answer": "2^{25} \\cdot 26!"}],
        2,
        {},
    ),
    "beyond_aime": ([{"problem": "How many?", "answer": 1023}, {"problem": "How many?", "answer": 1023}], 1, {"asked before": 1}),
    "dapo_math": (
        [
            dapo("What is 2+2?", "4"),
            dapo("What is 2+2?", "4"),
            dapo("Half of 1?", "1/2"),
            {**dapo("", "-34"), "prompt": "Plain?"},
        ],
        2,
        {"asked before": 1, "an answer that is not an integer": 1},
    ),
    "aqua": (
        [
            aqua(1, ["A)2", "B)3", "C)4"], "A"),
            aqua(2, ["A)3", "A)4"], "A"),
            aqua(3, ["A)4", "B)4"], "A"),
            aqua(4, ["A)1", "B)5"], "E"),
        ],
        1,
        {
            "options that are not lettered in order": 1,
            "a repeated option": 1,
            "its own answer is not accepted by multiple_choice (bad_row)": 1,
        },
    ),
    "code_contests": (
        [
            contest("plain"),
            contest("file", input_file="in.txt"),
            contest("drawn", description="See <image>."),
            contest("free", description="Print any of them."),
            contest("foreign", solutions={"language": [2], "solution": ["int main() {}"]}),
            contest("wrong", solutions={"language": [3], "solution": ["print(4)"]}),
            contest("huge", public_tests={"input": ["1" * 30_000], "output": ["1"]}, private_tests={"input": [], "output": []}),
        ],
        1,
        {
            "a file in place of stdin or stdout": 1,
            "a picture in the description": 1,
            "more than one right answer": 1,
            "no program in Python 3": 1,
            "no case that is small enough": 1,
            "its own answer is not accepted by code_stdin (0)": 1,
        },
    ),
    "livecodebench": (
        [live(1), live(2, private_test_cases=json.dumps([case("4\n", "16\n")])), live(3, starter_code="class Solution:")],
        2,
        {"a function, not a program": 1},
    ),
    "zebralogic": ([zebra(1, "dog"), zebra(2, "fish"), zebra(3, "___")], 2, {"no solution": 1}),
}
WRONG = {
    "aqua": "\\boxed{B}",
    "code_contests": "```python\nprint(4)\n```",
    "livecodebench": "```python\nprint(4)\n```",
    "zebralogic": '{"House 1": {"Name": "Eric", "Pet": "dog"}, "House 2": {"Name": "Arnold", "Pet": "cat"}}',
}
RIGHT = {"livecodebench": f"```python\n{SQUARES}\n```"}


def recipe(name: str):
    return load_recipe(ROOT / "data_recipes" / f"{name}.py")


@pytest.fixture(scope="module")
def built(tmp_path_factory, pool):
    """A function that builds a recipe's records whole, as its evaluation set."""
    made: dict[str, tuple] = {}

    def build_once(name: str) -> tuple:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            (folder / "raws.jsonl").write_text("".join(json.dumps(raw) + "\n" for raw in SETS[name][0]))
            whole = replace(recipe(name), sizes={"train": 0, "eval": None})
            datasets, left_out = build(whole, folder, pool, source=str(folder / "raws.jsonl"))
            made[name] = [datasets["eval"][n] for n in range(len(datasets["eval"]))], left_out
        return made[name]

    return build_once


@pytest.mark.parametrize("name", SETS)
def test_records_become_rows_or_are_left_out_for_a_reason(built, name):
    rows, left_out = built(name)
    _, expected, reasons = SETS[name]
    assert (len(rows), Counter(left.reason for left in left_out)) == (expected, reasons)


@pytest.mark.parametrize("name", SETS)
def test_the_right_answer_is_worth_all_and_a_wrong_one_nothing(built, name):
    task = load_task(recipe(name).task, [ROOT / "tasks"])
    for row in built(name)[0]:
        for response, reward in ((RIGHT.get(name, gold(row)), 1.0), (WRONG.get(name, "\\boxed{12345}"), 0.0)):
            score = score_response(task, response, row)
            assert (score.status, score.reward) == (Status.OK, reward), (response, score)


def test_a_problem_of_dapo_loses_its_wrapper_and_nothing_else():
    to_row = recipe("dapo_math").to_row
    assert to_row(dapo("Let $a$ be\n\ntwo.", "2")).question == "Let $a$ be\n\ntwo."
    assert to_row({"prompt": "Let $a$ be two.", "solution": "2"}).question == "Let $a$ be two."


def test_a_contest_s_demonstration_is_its_shortest_program_and_its_cases_are_bounded():
    row = recipe("code_contests").to_row(contest("plain"))
    assert row.response == f"```python\n{SQUARES}\n```"
    assert row.meta["cases"] == [["2\n", "4\n"], ["3\n", "9\n"], ["5\n", "25\n"]]
    many = {"input": [f"{n}\n" for n in range(100)], "output": [f"{n * n}\n" for n in range(100)]}
    assert len(recipe("code_contests").to_row(contest("many", generated_tests=many)).meta["cases"]) == 12


def test_a_pickle_of_more_than_text_is_refused(tmp_path):
    class Touch:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    hostile = base64.b64encode(zlib.compress(pickle.dumps(Touch()))).decode()
    with pytest.raises(ValueError, match="a test's pickle imports .*system; it may only contain plain data"):
        recipe("livecodebench").to_row(live(1, private_test_cases=hostile))
    assert not (tmp_path / "ran").exists()


def test_a_set_without_answers_is_not_checked_by_them(built):
    assert not recipe("livecodebench").has_gold
    assert [row.meta["id"] for row in built("livecodebench")[0]] in (["1", "2"], ["2", "1"])

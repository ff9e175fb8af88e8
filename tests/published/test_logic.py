"""Puzzles and logic: every stored row of reasoning-gym passes with its own answer, boolean expressions have their values."""

import json

import pytest

from tests.conftest import SHARED
from tests.verifiers.test_grids import HAS_GRID, PASSES
from vlrl.verifiers.logic import follows, solves_knights


def stored(file: str, **entries) -> list[dict]:
    lines = (SHARED / "data/logic" / file).read_text().splitlines()
    return [row for row in map(json.loads, lines) if row.items() >= entries.items()]


def puzzles(family: str) -> list[dict]:
    return stored("reasoning_gym_240.jsonl", dataset=family)


def test_every_row_of_knights_passes_with_its_own_answer():
    assert [solves_knights(row["answer"], row["metadata"]) for row in puzzles("knights_knaves")] == [True] * 15


@pytest.mark.parametrize("family", PASSES)
def test_every_row_passes_with_its_own_answer(family):
    assert [PASSES[family](row["answer"], row) for row in puzzles(family)] == [True] * 15


@pytest.mark.parametrize("family", HAS_GRID)
def test_the_answer_of_another_row_passes_only_if_it_solves_this_one_too(family):
    rows = puzzles(family)
    for row in rows:
        solutions = row["metadata"].get("valid_answers", [row["answer"]])  # some boards of queens have several
        for other in rows:
            assert PASSES[family](other["answer"], row) == (other["answer"] in solutions)


def test_every_boolean_expression_has_its_value():
    rows = stored("bbh_logic.jsonl", task="boolean_expressions")
    facts = ["True", "not False"]  # two variables like any other
    assert [str(follows(facts, row["input"].removesuffix(" is"))) for row in rows] == [row["target"] for row in rows]
    assert len(rows) == 38

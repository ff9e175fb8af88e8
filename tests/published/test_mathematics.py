"""Mathematics: every published vector has its verdict, and the answers of MATH-500 are themselves and not their neighbours."""

import json

from tests.conftest import SHARED
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.choices import same_choice
from vlrl.verifiers.symbolic import same_expression

POLICIES = {  # (gold, answer): why the verdict differs from the vector's
    ("0", "x^2 - x^2"): "a number is answered by a number, written out: x - x + 3 + 4 would be the question repeated",
    ("1112112_3", "1112112"): "a base is part of the number: 101_2 is not 101",
}


def vectors(is_choice: bool) -> list[dict]:
    rows = [json.loads(line) for line in (SHARED / "vectors/math_pairs.jsonl").read_text().splitlines()]
    return [row for row in rows if (row["tag"] == "mcq") == is_choice]


def test_every_vector_has_its_verdict_but_for_the_policies():
    rows = vectors(is_choice=False)
    assert len(rows) == 117
    differing = {}
    for row in rows:
        answer = last_boxed(row["answer"])
        digits = 4 if row["tag"] == "rounding" else 6
        if (answer is not None and same_expression(answer, row["gold"], digits=digits)) != row["expected"]:
            differing[row["gold"], answer] = row["expected"]
    assert differing == dict.fromkeys(POLICIES, True)


def test_the_choices_have_their_verdicts():
    rows = vectors(is_choice=True)
    assert len(rows) == 2
    options = ["2", "3", "5", "7"]  # the vectors give none; one of them says (C) 5
    assert all(same_choice(row["answer"], row["gold"], options) == row["expected"] for row in rows)


def test_math_500_is_itself_and_not_its_neighbour():
    golds = [json.loads(line)["answer"] for line in (SHARED / "data/math/math500.jsonl").read_text().splitlines()]
    assert sum(same_expression(gold, gold) for gold in golds) == 500
    shifted = zip(golds, golds[1:] + golds[:1], strict=True)
    accepted = [(other, gold) for gold, other in shifted if gold != other and same_expression(other, gold)]
    assert accepted == [("x=5", "5")]  # which are equal

"""The plan beside the measured memory of real policies under DeepSpeed: python -m bench.memory has all cases."""

import pytest

from bench.memory import Case, measured, write_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_models(folder, layers=12)
    return folder


@pytest.mark.parametrize(
    "case",
    [
        Case(ranks=1, stage=1, dtype="float32"),
        Case(ranks=2, stage=1, dtype="bfloat16"),
        Case(ranks=2, stage=3, dtype="bfloat16"),
    ],
    ids=str,
)
def test_the_plan_is_within_a_tenth_of_what_is_measured(models, case):
    for row in measured(case, models):
        assert row["measured"] == pytest.approx(row["planned"], rel=0.1), row

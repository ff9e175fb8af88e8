"""Rollouts without a verdict: too many of one task stop the run, whatever the others do; a single bad row does not."""

import logging

import pytest

from vlrl.distributed.ranks import Ranks
from vlrl.rollout.unscored import Unscored
from vlrl.types import Group, Prompt, Rollout, Row, Sample, Score, Status

ALONE = Ranks(0, 1, 0)
FAILED = Score(reward=0.0, status=Status.ERROR, detail="KeyError: 'hint' (tasks/dots.py:12)")


def group(task: str, failed: int, *, of: int = 8) -> Group:
    prompt = Prompt(slot=0, task=task, row=Row(), messages=(), group_size=of)
    rollout = Rollout(slot=0, sample=0, tokens=(1,), logprobs=(0.0,), text="", finish_reason="stop", weight_versions=())
    scores = [FAILED] * failed + [Score(reward=1.0)] * (of - failed)
    return Group(prompt=prompt, samples=tuple(Sample(rollout=rollout, score=score) for score in scores))


def see(unscored: Unscored, *groups: Group, most: float = 0.2) -> None:
    unscored.see(groups, ALONE, most=most, where="step 1")


def test_a_small_task_s_failures_are_not_diluted_by_the_others():
    groups = [*[group("large", 0)] * 40, *[group("dots", 4)] * 4]
    with pytest.raises(RuntimeError, match="step 1: 16 of the last 32 rollouts of task dots have no verdict, more than") as stop:
        see(Unscored(), *groups)
    assert "most often: error, KeyError: 'hint' (tasks/dots.py:12)" in str(stop.value)
    assert "large" not in str(stop.value)


def test_one_bad_row_costs_its_own_group_and_is_said_once(caplog):
    unscored = Unscored()
    with caplog.at_level(logging.WARNING):
        see(unscored, group("dots", 8), group("dots", 0))
        see(unscored, group("dots", 8), group("dots", 0))
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("step 1: 8 of the last 16 rollouts of task dots have no verdict") and "tasks/dots.py:12" in told


def test_failures_of_a_small_task_add_up_over_steps():
    unscored = Unscored()
    for _ in range(2):
        see(unscored, group("dots", 8))
    with pytest.raises(RuntimeError, match="24 of the last 24 rollouts of task dots"):
        see(unscored, group("dots", 8))


def test_a_rare_failure_never_stops_a_long_run():
    unscored = Unscored()
    for step in range(500):
        see(unscored, group("dots", 8 if step % 10 in (6, 9) else 0), most=0.25)


def test_a_large_step_is_judged_as_a_whole():
    groups = [*[group("dots", 8)] * 60, *[group("dots", 0)] * 70]
    with pytest.raises(RuntimeError, match="480 of the last 1040 rollouts"):
        see(Unscored(), *groups)


def test_a_row_without_a_prompt_counts_as_all_of_its_rollouts():
    prompt = Prompt(slot=0, task="dots", row=Row(), messages=(), group_size=4)
    bad = Group(prompt=prompt, samples=())
    with pytest.raises(RuntimeError, match="12 of the last 12 .* rows from which no prompt can be made"):
        see(Unscored(), bad, bad, bad)

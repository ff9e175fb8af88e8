"""Composed rewards: weights, the required part, the length penalty, and what they leave alone."""

import doctest
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.common.task_settings import RewardConfig
from vlrl.config import AlgorithmConfig
from vlrl.rollout import reward as module
from vlrl.rollout.groups import with_advantages
from vlrl.rollout.reward import compose_rewards, length_overrun, unknown_parts
from vlrl.types import Group, Prompt, Rollout, Row, Sample, Score, Status

LIMIT = 100
RIGHT = Score(reward=1.0, parts={"boxed": 1.0, "format": 0.5})
BARE = Score(reward=1.0, parts={"boxed": 0.0, "format": 1.0})
HUNG = Score(reward=0.0, status=Status.TIMEOUT)


def group_of(*pairs: tuple[Score, int]) -> Group:
    rollouts = [
        Rollout(slot=0, sample=n, tokens=(1,) * size, logprobs=(0.0,) * size, text="", finish_reason="stop", weight_versions=())
        for n, (_, size) in enumerate(pairs)
    ]
    prompt = Prompt(slot=0, task="sums", row=Row(), messages=(), max_new_tokens=LIMIT)
    samples = [Sample(rollout=each, score=score, reward=score.reward) for each, (score, _) in zip(rollouts, pairs, strict=True)]
    return Group(prompt=prompt, samples=tuple(samples))


def rewards(settings: RewardConfig, *pairs: tuple[Score, int]) -> list[float]:
    return [sample.reward for sample in compose_rewards(group_of(*pairs), settings).samples]


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(module).failed == 0


def test_without_settings_a_group_stays_the_very_same():
    group = group_of((RIGHT, 5), (HUNG, 5))
    assert compose_rewards(group, RewardConfig()) is group


def test_weights_are_over_parts_and_the_verifiers_own_reward():
    settings = RewardConfig(weights={"reward": 0.9, "format": 0.2})
    assert rewards(settings, (RIGHT, 5), (BARE, 5)) == pytest.approx([1.0, 1.1])


def test_a_closed_gate_leaves_nothing_but_penalties():
    settings = RewardConfig(required_part="boxed", length_penalty=0.5, length_buffer=10)
    assert rewards(settings, (RIGHT, 5), (BARE, 5), (BARE, LIMIT)) == [1.0, 0.0, -0.5]


@given(st.integers(0, 500), st.integers(1, 200))
def test_the_penalty_grows_with_the_length_and_stays_in_bounds(num_tokens, buffer):
    share = length_overrun(num_tokens, LIMIT, buffer)
    assert 0 <= share <= length_overrun(num_tokens + 1, LIMIT, buffer) <= 1
    assert length_overrun(LIMIT, LIMIT, buffer) == 1 and length_overrun(LIMIT - buffer, LIMIT, buffer) == 0


def test_an_answer_in_another_language_than_the_question_costs_its_penalty():
    question = "How many apples are there in the basket on the table?"
    group = group_of((RIGHT, 5), (RIGHT, 5))
    texts = ("There are seven apples in the basket, so the answer is seven.", "篮子里有七个苹果，所以答案是七。这是正确的结果。")
    samples = [replace(each, rollout=replace(each.rollout, text=text)) for each, text in zip(group.samples, texts, strict=True)]
    group = replace(group, prompt=replace(group.prompt, row=Row(question=question)), samples=tuple(samples))
    composed = compose_rewards(group, RewardConfig(language_penalty=0.3))
    assert [sample.reward for sample in composed.samples] == [1.0, 0.7]


def test_a_score_that_is_not_ok_stays_masked():
    settings = RewardConfig(weights={"reward": 2.0}, length_penalty=1.0)
    group = compose_rewards(group_of((RIGHT, 5), (BARE, LIMIT), (HUNG, LIMIT)), settings)
    assert group.samples[2].score is HUNG
    advantages = [sample.advantage for sample in with_advantages(group, AlgorithmConfig()).samples]
    assert advantages[2] == 0 and advantages[0] > 0 > advantages[1]


def test_the_verifiers_own_reward_is_never_overwritten():
    (sample,) = compose_rewards(group_of((RIGHT, LIMIT)), RewardConfig(length_penalty=1.0)).samples
    assert sample.reward == 0.0 and sample.score is RIGHT


def test_parts_that_no_score_has_are_named():
    settings = RewardConfig(weights={"reward": 1.0, "boxd": 0.1}, required_part="formt")
    assert unknown_parts(settings, {"boxed", "format"}) == ["boxd", "formt"]

"""Composes a sample's reward from its verifier's score, as the run file says: weights, a required part, penalties.

Evaluation takes the verifier's reward unchanged.
"""

from dataclasses import replace

from vlrl.common.task_settings import RewardConfig
from vlrl.types import Group, Prompt, Sample
from vlrl.verifiers.text import same_language

VERIFIER = "reward"
"""The name of the verifier's own reward among a score's parts, in reward.weights and reward.required_part."""


def compose_rewards(group: Group, settings: RewardConfig) -> Group:
    """The group with composed rewards. A sample whose score is not ok keeps its reward, which means nothing."""
    if settings == RewardConfig():
        return group
    composed = (
        replace(sample, reward=_composed(sample, group.prompt, settings)) if sample.is_scored else sample
        for sample in group.samples
    )
    return replace(group, samples=tuple(composed))


def length_overrun(num_tokens: int, limit: int, buffer: int) -> float:
    """How much of the last `buffer` tokens before `limit` a response uses: 0 to 1.

    >>> [length_overrun(tokens, limit=100, buffer=20) for tokens in (90, 100, 80)]
    [0.5, 1.0, 0.0]
    """
    return min(1.0, max(0.0, (num_tokens - limit + buffer) / buffer))


def unknown_parts(settings: RewardConfig, known: set[str]) -> list[str]:
    """Names of parts that the settings use and no score has."""
    used = {*settings.weights, *filter(None, [settings.required_part])}
    return sorted(used - known - {VERIFIER})


def _composed(sample: Sample, prompt: Prompt, settings: RewardConfig) -> float:
    rollout, score = sample.rollout, sample.score
    parts = {**score.parts, VERIFIER: score.reward}
    weights = settings.weights or {VERIFIER: 1.0}
    reward = sum(weight * parts.get(name, 0.0) for name, weight in weights.items())
    if settings.required_part and parts.get(settings.required_part, 0.0) < 1:
        reward = 0.0
    reward -= settings.length_penalty * length_overrun(len(rollout.tokens), prompt.max_new_tokens, settings.length_buffer)
    if settings.language_penalty and not same_language(rollout.text, prompt.row.question):
        reward -= settings.language_penalty
    return reward

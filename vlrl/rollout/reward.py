"""A verifier's score to the reward that is trained on, as the run file composes it: weights, a gate, penalties.

Evaluation takes the verifier's reward as it is.
"""

from dataclasses import replace

from vlrl import config as cfg
from vlrl.types import Group, Prompt, Rollout, Score, Status
from vlrl.verifiers.text import same_language

VERDICT = "reward"


def compose_reward(group: Group, settings: cfg.RewardConfig) -> Group:
    """The group with composed rewards, the verifier's own kept as the part "verdict". Scores that are not ok stay as they are."""
    if settings == cfg.RewardConfig():
        return group
    pairs = zip(group.rollouts, group.scores, strict=True)
    return replace(group, scores=tuple(_composed(rollout, score, group.prompt, settings) for rollout, score in pairs))


def length_overrun(num_tokens: int, limit: int, buffer: int) -> float:
    """How much of the last `buffer` tokens before `limit` a response uses: 0 to 1.

    >>> overrun(90, limit=100, buffer=20), overrun(100, limit=100, buffer=20), overrun(80, limit=100, buffer=20)
    (0.5, 1.0, 0.0)
    """
    return min(1.0, max(0.0, (num_tokens - limit + buffer) / buffer))


def unknown_parts(settings: cfg.RewardConfig, known: set[str]) -> list[str]:
    """Names of parts that the settings use and no score has."""
    used = {*settings.weights, *filter(None, [settings.gate])}
    return sorted(used - known - {VERDICT})


def _composed(rollout: Rollout, score: Score, prompt: Prompt, settings: cfg.RewardConfig) -> Score:
    if score.status is not Status.OK:
        return score
    parts = {**score.parts, VERDICT: score.reward}
    weights = settings.weights or {VERDICT: 1.0}
    reward = sum(weight * parts.get(name, 0.0) for name, weight in weights.items())
    if settings.gate and parts.get(settings.gate, 0.0) < 1:
        reward = 0.0
    reward -= settings.length_penalty * length_overrun(len(rollout.tokens), prompt.max_new_tokens, settings.length_buffer)
    if settings.language_penalty and not same_language(rollout.text, prompt.row.question):
        reward -= settings.language_penalty
    return replace(score, reward=reward, parts={**score.parts, "verdict": score.reward})

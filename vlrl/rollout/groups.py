"""Prompts to scored groups: encode once, sample, and score each rollout while the others are still being generated."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from vlrl import config as cfg
from vlrl.algorithm.advantages import group_advantages
from vlrl.models.processor import EncodedPrompt, Encoder
from vlrl.rollout.engine import Decoding, Engine, Request
from vlrl.scoring import Scorer
from vlrl.telemetry.clock import Clock
from vlrl.telemetry.metrics import Key, Mean, Totals, combine
from vlrl.types import Group, Prompt, Rollout, Status

logger = logging.getLogger(__name__)


def encode_prompts(prompts: Sequence[Prompt], encoder: Encoder, context: int) -> dict[int, EncodedPrompt]:
    """Each usable prompt by slot. One with a broken image or longer than the context is named in a warning and left out."""
    encoded = {}
    for prompt in prompts:
        try:
            encoded[prompt.slot] = encode_prompt(prompt, encoder, context)
        except ValueError as error:
            logger.warning("bad row: %s", error)
    return encoded


def encode_prompt(prompt: Prompt, encoder: Encoder, context: int) -> EncodedPrompt:
    """ValueError, naming task and row, where the row can't become a prompt that leaves room for its response."""
    where = f"task {prompt.task}, row {prompt.row.key or prompt.row.question!r}"
    try:
        encoded = encoder.encode(prompt.messages)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if len(encoded.tokens) + prompt.max_new_tokens > context:
        raise ValueError(
            f"{where}: its prompt has {len(encoded.tokens)} tokens; with max_new_tokens {prompt.max_new_tokens} that exceeds "
            f"engine.max_model_len {context}; raise it, or bound the images' size"
        )
    return encoded


def sample_groups(
    prompts: Sequence[Prompt],
    encoded: Mapping[int, EncodedPrompt],
    *,
    engine: Engine,
    scorer: Scorer,
    decoding: Decoding,
    seed: Callable[[int, int], int],
    owned: Collection[int],
    tick: Callable[[], None] = lambda: None,
    clock: Clock | None = None,
) -> list[Group]:
    """The scored groups of the slots in `owned`, in the order of the prompts; a bad row's group has no rollouts.

    prompts: all that this engine samples; owned: those that this rank scores and trains. seed: of (slot, sample).
    tick: called after each rollout; what it raises ends the sampling. clock: of sampling, and of waiting for the last scores.
    """
    clock = clock or Clock()
    requests = [
        Request(
            slot=prompt.slot,
            sample=sample,
            prompt=encoded[prompt.slot],
            max_new_tokens=prompt.max_new_tokens,
            decoding=decoding,
            seed=seed(prompt.slot, sample),
        )
        for prompt in prompts
        if prompt.slot in encoded
        for sample in range(prompt.group_size)
    ]
    by_slot = {prompt.slot: prompt for prompt in prompts if prompt.slot in owned}
    rollouts: dict[tuple[int, int], Rollout] = {}
    with clock("time/generate"):
        for rollout in engine.generate(requests):
            if rollout.slot in by_slot:
                prompt = by_slot[rollout.slot]
                rollouts[rollout.slot, rollout.sample] = rollout
                scorer.submit(rollout, prompt.task, prompt.row, file=prompt.file)
            tick()
    with clock("time/score"):
        scores = scorer.collect()
    return [
        Group(
            prompt=prompt,
            rollouts=tuple(rollouts[slot, sample] for sample in range(prompt.group_size if slot in encoded else 0)),
            scores=tuple(scores[slot, sample] for sample in range(prompt.group_size if slot in encoded else 0)),
        )
        for slot, prompt in by_slot.items()
    ]


def with_advantages(group: Group, settings: cfg.AlgorithmConfig, *, weight: float = 1.0) -> Group:
    """The group with its rollouts' advantages over those that were scored, times `weight`; 0 for the others."""
    advantages = group_advantages(
        [score.reward for score in group.scores],
        [score.status is Status.OK for score in group.scores],
        normalise_std=settings.normalise_std,
        std=settings.std,
        epsilon=settings.std_epsilon,
    )
    return replace(group, advantages=tuple(weight * advantage for advantage in advantages))


def without_routes(group: Group) -> Group:
    """The group as the log has it; the experts of every token are many numbers to send to the first rank."""
    return replace(group, rollouts=tuple(replace(rollout, routes=None) for rollout in group.rollouts))


def summarise(groups: Sequence[Group]) -> Totals:
    """What the rollouts were like, by task: reward and its parts, length, truncation, equal-reward groups, failed scores.

    scoring/failed/*: share of rollouts without a verdict; a bad row counts as all of its rollouts.
    """
    return combine(_summary(group) for group in groups)


def _summary(group: Group) -> Totals:
    task, rollouts = group.prompt.task, group.rollouts
    scored = [score for score in group.scores if score.status is Status.OK]
    count, planned = float(len(rollouts)), float(group.prompt.group_size)
    rewards = [score.reward for score in scored]
    totals: Totals = {
        Key("reward", task): Mean(sum(rewards), len(scored)),
        Key("rollout/tokens", task): Mean(sum(len(rollout.tokens) for rollout in rollouts), count),
        Key("rollout/truncated", task): Mean(sum(rollout.finish_reason == "length" for rollout in rollouts), count),
        Key("rollout/equal_rewards", task): Mean(bool(scored) and max(rewards) == min(rewards)),
        Key("scoring/failed"): Mean(planned - len(scored), planned),
        Key("scoring/failed", task): Mean(planned - len(scored), planned),
    }
    for status in (Status.ERROR, Status.TIMEOUT):
        totals[Key(f"scoring/{status}", task)] = Mean(sum(score.status is status for score in group.scores), planned)
    bad = sum(score.status is Status.BAD_ROW for score in group.scores) + (planned if not rollouts else 0)
    totals[Key(f"scoring/{Status.BAD_ROW}", task)] = Mean(bad, planned)
    parts = combine({Key("parts", task, part=part): Mean(value) for part, value in score.parts.items()} for score in scored)
    return totals | parts

"""Turns prompts into scored groups with advantages, and says of them what the log shows."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from vlrl import config as cfg
from vlrl.algorithm.advantages import group_advantages
from vlrl.models.processor import EncodedPrompt, Encoder
from vlrl.rollout.engine import Decoding, Engine
from vlrl.rollout.responses import Responses, sample_responses
from vlrl.scoring import Scorer
from vlrl.telemetry.clock import Clock
from vlrl.telemetry.metrics import Key, Mean, Totals, combine
from vlrl.types import Group, Prompt, Status

logger = logging.getLogger(__name__)


def encode_prompts(prompts: Sequence[Prompt], encoder: Encoder, context: int) -> list[Prompt]:
    """The prompts with their encoding, and their rows with what the verifier must know of it.

    One with a broken image or longer than the context is named in a warning and has no encoding.
    """
    encoded = []
    for prompt in prompts:
        try:
            found = encode_prompt(prompt, encoder, context)
        except ValueError as error:
            logger.warning("bad row: %s", error)
            encoded.append(prompt)
        else:
            encoded.append(replace(prompt, encoded=found, row=replace(prompt.row, seen=found.seen)))
    return encoded


def encode_prompt(prompt: Prompt, encoder: Encoder, context: int) -> EncodedPrompt:
    """Encodes the prompt. ValueError, naming task and row, if it cannot be encoded or leaves no room for a response."""
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


def encode_demonstration(prompt: Prompt, encoder: Encoder) -> tuple[EncodedPrompt, list[int]]:
    """The encoded prompt and its row's response. ValueError, naming task and row, if one of them cannot be encoded."""
    try:
        if not prompt.row.response:
            raise ValueError("no response to learn from; set coldstart.steps to 0")
        encoded = encoder.encode(prompt.messages)
        return encoded, encoder.encode_response(prompt.row.response, encoded.opened)
    except ValueError as error:
        raise ValueError(f"task {prompt.task}, row {prompt.row.key or prompt.row.question!r}: {error}") from None


def sample_groups(
    prompts: Sequence[Prompt],
    *,
    seed: Callable[[int, int, int], int],
    owned: Collection[int],
    engine: Engine,
    scorer: Scorer,
    decode: Callable[[Sequence[int]], str],
    decoding: Decoding,
    tick: Callable[[], None] = lambda: None,
    clock: Clock | None = None,
) -> list[Group]:
    """The scored groups of the slots in `owned`, in the order of the prompts; a prompt without an encoding gets no samples.

    For the arguments see Responses and sample_responses.
    """
    responses = Responses.to(prompts, owned, seed)
    sample_responses({responses: None}, engine=engine, scorer=scorer, decode=decode, decoding=decoding, tick=tick, clock=clock)
    return responses.groups()


def with_advantages(group: Group, settings: cfg.AlgorithmConfig, *, weight: float = 1.0) -> Group:
    """The group with its samples' advantages over those that were scored, times `weight`; 0 for the others."""
    advantages = group_advantages(
        [sample.reward for sample in group.samples],
        [sample.is_scored for sample in group.samples],
        normalise_std=settings.normalise_std,
        std=settings.std,
        epsilon=settings.std_epsilon,
    )
    weighted = [replace(each, advantage=weight * value) for each, value in zip(group.samples, advantages, strict=True)]
    return replace(group, samples=tuple(weighted))


def summarise(groups: Sequence[Group]) -> Totals:
    """Metrics of the rollouts by task: reward and its parts, length, truncation, groups of equal rewards, failed scores.

    scoring/failed/*: the share of rollouts without a score; a row that cannot become a prompt counts as all of its rollouts.
    """
    return combine(_summary(group) for group in groups)


def _summary(group: Group) -> Totals:
    task, rollouts = group.prompt.task, [sample.rollout for sample in group.samples]
    scored = [sample for sample in group.samples if sample.is_scored]
    count, planned = float(len(rollouts)), float(group.prompt.group_size)
    rewards = [sample.reward for sample in scored]
    totals: Totals = {
        Key("reward", task): Mean(sum(rewards), len(scored)),
        Key("verifier_reward", task): Mean(sum(sample.score.reward for sample in scored), len(scored)),
        Key("rollout/tokens", task): Mean(sum(len(rollout.tokens) for rollout in rollouts), count),
        Key("rollout/truncated", task): Mean(sum(rollout.finish_reason == "length" for rollout in rollouts), count),
        Key("rollout/equal_rewards", task): Mean(bool(scored) and max(rewards) == min(rewards)),
        Key("scoring/failed"): Mean(planned - len(scored), planned),
        Key("scoring/failed", task): Mean(planned - len(scored), planned),
    }
    statuses = [sample.score.status for sample in group.samples]
    for status in (Status.ERROR, Status.TIMEOUT):
        totals[Key(f"scoring/{status}", task)] = Mean(statuses.count(status), planned)
    bad = statuses.count(Status.BAD_ROW) + (planned if not rollouts else 0)
    totals[Key(f"scoring/{Status.BAD_ROW}", task)] = Mean(bad, planned)
    parts = combine({Key("parts", task, part=part): Mean(value) for part, value in each.score.parts.items()} for each in scored)
    return totals | parts

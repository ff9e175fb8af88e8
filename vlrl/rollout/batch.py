"""A step's batch: prompts at the mixture's ratios, sampled, scored and given advantages, round by round.

A group whose rewards are all equal has no gradient. Where the run file asks for refills, a group for another row of its task
takes its place, so that the ratios hold among the groups that count.
"""

from dataclasses import dataclass, field
from functools import partial

from vlrl.common.signals import Stopped, StopSignal
from vlrl.data.mixture import Mixture
from vlrl.models.processor import EncodedPrompt
from vlrl.rollout.balance import balance
from vlrl.rollout.engine import Decoding, Engine, sampling_seed
from vlrl.rollout.groups import encode_prompts, sample_groups, with_advantages
from vlrl.rollout.reward import compose_reward
from vlrl.run import Run
from vlrl.scoring import Scorer
from vlrl.telemetry.clock import Clock, percentile
from vlrl.telemetry.metrics import Key, Mean, Metrics, Totals, combine, step_metrics
from vlrl.types import Draw, Group, Status


@dataclass(kw_only=True, slots=True)
class Batch:
    """This rank's part of a step: the groups to train on by slot, those that they replaced, and the encoded prompts by slot.

    metrics: of scoring's latencies, and of the ranks' idle shares.
    """

    by_slot: dict[int, Group] = field(default_factory=dict)
    replaced: list[Group] = field(default_factory=list)
    encoded: dict[int, EncodedPrompt] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)

    @property
    def groups(self) -> list[Group]:
        """The groups to train on, in slot order."""
        return [self.by_slot[slot] for slot in sorted(self.by_slot)]

    @property
    def sampled(self) -> list[Group]:
        """All groups that were sampled."""
        return [*self.replaced, *self.groups]


def sample_batch(
    run: Run, mixture: Mixture, engine: Engine, scorer: Scorer, step: int, *, clock: Clock, stop: StopSignal
) -> Batch | None:
    """The step's batch; None where a signal came in between. All ranks call it; what it draws is a function of (seed, step)
    and, in refills, of the rewards."""
    batch, drawn = Batch(), mixture.draw(step)
    fresh, refills = drawn, run.config.sampling.dynamic_sampling_rounds
    while True:
        groups = _sample_round(run, fresh, engine, scorer, step, batch=batch, clock=clock, stop=stop)
        if run.ranks.any(stop.requested):
            return None
        slots = {draw.slot for draw in fresh}  # a place that is refilled may go to another rank
        batch.replaced += [batch.by_slot.pop(slot) for slot in sorted(slots & batch.by_slot.keys())]
        batch.by_slot |= {group.prompt.slot: group for group in groups}
        if not refills:
            break
        refills -= 1
        equal = [group.prompt.slot for group in groups if has_equal_rewards(group)]
        fresh = mixture.redraw(step, drawn, {slot for part in run.ranks.gather(equal) for slot in part})
        if not fresh:
            break
        drawn = [*drawn, *fresh]
    with clock("time/balance"):
        algorithm = run.config.algorithm
        groups, batch.encoded, told = balance(
            batch.groups,
            batch.encoded,
            run.cost,
            run.ranks,
            minibatches=algorithm.minibatches,
            keep_zero=algorithm.kl_coefficient > 0,
        )
    batch.by_slot = {group.prompt.slot: group for group in groups}
    batch.metrics = step_metrics(told) | _latencies(scorer)
    return batch


def refilled(batch: Batch) -> Totals:
    """By task: the share of the places that another group took, and of those that have no gradient after all."""
    return combine(
        {
            Key("rollout/refilled", group.prompt.task): Mean(group.prompt.round > 0),
            Key("rollout/no_gradient", group.prompt.task): Mean(not any(group.advantages)),
        }
        for group in batch.groups
    )


def has_equal_rewards(group: Group) -> bool:
    """Whether the group was scored and nothing can be learnt of it."""
    return any(score.status is Status.OK for score in group.scores) and not any(group.advantages)


def _sample_round(
    run: Run, draws: list[Draw], engine: Engine, scorer: Scorer, step: int, *, batch: Batch, clock: Clock, stop: StopSignal
) -> list[Group]:
    """This rank's groups of the draws; none where a signal came. Adds to the batch's encoded prompts."""
    config = run.config
    sampled, owned = run.replica(run.prompts(draws))
    with clock("time/encode"):
        encoded = encode_prompts(sampled, run.encoder, config.engine.max_model_len)
    batch.encoded |= encoded
    turn, count = draws[0].round, run.rollbacks
    more = [turn, count] if count else [turn] if turn else []  # a run that never went back keeps its seeds
    try:
        groups = sample_groups(
            sampled,
            encoded,
            engine=engine,
            scorer=scorer,
            decoding=Decoding(temperature=config.sampling.temperature),
            seed=lambda slot, sample: sampling_seed(config.seed, step, slot, sample, *more),
            owned=owned,
            tick=partial(stop.end_sampling, config.engine.tensor_parallel),
            clock=clock,
        )
    except Stopped:
        return []
    rewarded = [compose_reward(group, config.mixture[group.prompt.task].reward) for group in groups]
    return [with_advantages(group, config.algorithm, weight=config.mixture[group.prompt.task].loss_weight) for group in rewarded]


def _latencies(scorer: Scorer) -> Metrics:
    """p50 and p99 of each task's scoring time in seconds."""
    return {
        Key(f"scoring/p{percent}_s", task): percentile(seconds, percent)
        for task, seconds in scorer.latencies.items()
        for percent in (50, 99)
    }

"""Makes a step's batch: prompts at the mixture's ratios, sampled, scored and given advantages.

A group whose rewards are all equal has no gradient. With dynamic sampling, a group for another row of the same task replaces it,
so that the mixture's ratios hold among the groups that count.
"""

from dataclasses import dataclass, field
from functools import partial

from vlrl.common.signals import Stopped, StopSignal
from vlrl.data.mixture import Mixture
from vlrl.rollout.balance import balance
from vlrl.rollout.engine import Decoding, Engine, sampling_seed
from vlrl.rollout.groups import encode_prompts, sample_groups, with_advantages
from vlrl.rollout.reward import compose_rewards
from vlrl.run import Run
from vlrl.scoring import Scorer
from vlrl.telemetry.clock import Clock, percentile
from vlrl.telemetry.metrics import Key, Mean, Metrics, Totals, combine, step_metrics
from vlrl.types import Draw, Group


@dataclass(kw_only=True, slots=True)
class Batch:
    """This rank's part of a step: the groups to train on, by slot, and those that they replaced.

    metrics: scoring latencies and the imbalance of mini-batches and ranks.
    """

    by_slot: dict[int, Group] = field(default_factory=dict)
    replaced: list[Group] = field(default_factory=list)
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
    """Samples the step's batch; None if a signal came meanwhile. All ranks call it.

    What it draws depends on (seed, step) alone and, in later rounds of dynamic sampling, on the rewards.
    """
    batch, drawn = Batch(), mixture.draw(step)
    fresh, rounds_left = drawn, run.config.sampling.dynamic_sampling_rounds
    while True:
        groups = _sample_round(run, fresh, engine, scorer, step, clock=clock, stop=stop)
        if run.ranks.any(stop.requested):
            return None
        slots = {draw.slot for draw in fresh}  # the group that replaces another may be another rank's
        batch.replaced += [batch.by_slot.pop(slot) for slot in sorted(slots & batch.by_slot.keys())]
        batch.by_slot |= {group.prompt.slot: group for group in groups}
        if not rounds_left:
            break
        rounds_left -= 1
        equal = [group.prompt.slot for group in groups if has_equal_rewards(group)]
        fresh = mixture.redraw(step, drawn, {slot for part in run.ranks.gather(equal) for slot in part})
        if not fresh:
            break
        drawn = [*drawn, *fresh]
    with clock("time/balance"):
        algorithm = run.config.algorithm
        keep_zero = algorithm.kl_coefficient > 0
        groups, idle = balance(batch.groups, run.cost, run.ranks, minibatches=algorithm.minibatches, keep_zero=keep_zero)
    batch.by_slot = {group.prompt.slot: group for group in groups}
    batch.metrics = step_metrics(idle) | _latencies(scorer)
    return batch


def refilled(batch: Batch) -> Totals:
    """By task: the share of groups that replaced another, and of groups that have no gradient in the end."""
    return combine(
        {
            Key("rollout/refilled", group.prompt.task): Mean(group.prompt.round > 0),
            Key("rollout/no_gradient", group.prompt.task): Mean(not group.has_gradient),
        }
        for group in batch.groups
    )


def has_equal_rewards(group: Group) -> bool:
    """Whether the group was scored and teaches nothing."""
    return any(sample.is_scored for sample in group.samples) and not group.has_gradient


def _sample_round(
    run: Run, draws: list[Draw], engine: Engine, scorer: Scorer, step: int, *, clock: Clock, stop: StopSignal
) -> list[Group]:
    """This rank's groups of the draws; none if a signal came."""
    config = run.config
    sampled, owned = run.replica(run.prompts(draws))
    with clock("time/encode"):
        encoded = encode_prompts(sampled, run.encoder, config.engine.max_model_len)
    number, rollbacks = draws[0].round, run.rollbacks
    more = [number, rollbacks] if rollbacks else [number] if number else []  # a run that never went back keeps its seeds
    try:
        groups = sample_groups(
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
    rewarded = [compose_rewards(group, config.mixture[group.prompt.task].reward) for group in groups]
    return [with_advantages(group, config.algorithm, weight=config.mixture[group.prompt.task].loss_weight) for group in rewarded]


def _latencies(scorer: Scorer) -> Metrics:
    """The median and 99th percentile of each task's scoring time in seconds."""
    return {
        Key(f"scoring/p{percent}_s", task): percentile(seconds, percent)
        for task, seconds in scorer.latencies.items()
        for percent in (50, 99)
    }

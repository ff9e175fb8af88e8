"""Makes a step's batch: prompts at the mixture's ratios, sampled, scored and given advantages.

A group whose rewards are all equal has no gradient. With dynamic sampling, a group for another row of the same task replaces it,
so that the mixture's ratios hold among the groups that count.
"""

import pickle
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Thread

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
from vlrl.types import Draw, Group, Prompt


@dataclass(kw_only=True, slots=True)
class Batch:
    """This rank's part of a step: the groups to train on, by slot, and those that they replaced.

    version: of the policy that begins to train on it. metrics: scoring latencies and the imbalance of mini-batches and ranks.
    """

    by_slot: dict[int, Group] = field(default_factory=dict)
    replaced: list[Group] = field(default_factory=list)
    version: int = 0
    metrics: Metrics = field(default_factory=dict)

    @property
    def groups(self) -> list[Group]:
        """The groups to train on, in slot order."""
        return [self.by_slot[slot] for slot in sorted(self.by_slot)]

    @property
    def sampled(self) -> list[Group]:
        """All groups that were sampled."""
        return [*self.replaced, *self.groups]

    def with_groups(self, change: Callable[[Group], Group]) -> "Batch":
        """The batch with each group changed."""
        by_slot = {slot: change(group) for slot, group in self.by_slot.items()}
        return replace(self, by_slot=by_slot, replaced=list(map(change, self.replaced)))


@dataclass(kw_only=True, slots=True)
class Sampler:
    """Samples each step's batch, as many steps before it is trained on as rollout.staleness says. All ranks call it together.

    A batch is begun right after a weight sync and completed before the next, so that one version of the weights samples all of
    it. What it draws depends on (seed, step) alone and, in later rounds of dynamic sampling, on the rewards.

    run: with the settings that rollbacks have changed. sampled: the batches that wait for their step. begun: the step whose first
    round is being sampled, beside the training if the engine is separate.
    """

    run: Run
    mixture: Mixture
    engine: Engine
    scorer: Scorer
    stop: StopSignal
    sampled: dict[int, Batch] = field(default_factory=dict)
    begun: tuple[int, "Future[list[Group]]", Clock] | None = None

    def take(self, step: int, clock: Clock) -> Batch | None:
        """The step's batch, after it has begun those that are sampled beside the step. None if a signal came meanwhile.

        A signal ends the sampling only before the first step that no saved batch precedes, or without staleness: later, the
        weights that sample what is missing would be gone when the run resumes.
        """
        ahead = self.run.config.rollout.staleness
        stop = self.stop if step == 0 or not ahead else None
        for later in range(step, min(step + ahead, self.run.config.steps - 1) + 1):
            if later not in self.sampled:
                beside = ahead > 0 and later == step + ahead
                self._begin(later, clock, None if beside else stop)
                if not beside and not self.complete(clock, stop):
                    return None
        return self.sampled.pop(step)

    def complete(self, clock: Clock, stop: StopSignal | None = None) -> bool:
        """Waits for the batch that is begun, if one is, and completes it. False if a signal came."""
        if not self.begun:
            return True
        step, first_round, beside = self.begun
        self.begun = None
        with clock("time/sampling_ahead") if beside is not clock else nullcontext():
            groups = first_round.result()
        batch = self._completed(step, groups, clock, stop)
        if batch is None:
            return False
        if beside is not clock:
            beside_names = {name: f"ahead/{name.removeprefix('time/')}_s" for name in beside.seconds if name.startswith("time/")}
            batch.metrics |= step_metrics({beside_names.get(name, name): each for name, each in beside.seconds.items()})
        self.sampled[step] = batch
        return True

    def save(self, folder: Path) -> None:
        """Writes this rank's waiting batches: the weights that sampled them are gone when the run resumes."""
        if self.run.config.rollout.staleness:
            kept = {step: batch.with_groups(_without_encoding) for step, batch in self.sampled.items()}
            (folder / f"sampled-{self.run.ranks.rank}.pkl").write_bytes(pickle.dumps(kept))

    def load(self, checkpoint: Path | None) -> None:
        """Takes the waiting batches of a checkpoint, None for none. Other ranks than those that saved it share them anew."""
        ranks, self.sampled = self.run.ranks, {}
        paths = sorted(checkpoint.glob("sampled-*.pkl")) if checkpoint else []
        parts = [pickle.loads(path.read_bytes()) for path in paths[ranks.rank :: ranks.size]]
        for step in sorted(set().union(*ranks.gather(set().union(*parts)))):
            merged = Batch()
            for batch in (part[step] for part in parts):
                merged.by_slot |= batch.by_slot
                merged.replaced += batch.replaced
                merged.metrics |= batch.metrics
            merged = merged.with_groups(self._with_encoding)
            if len(paths) != ranks.size:
                merged = self._balanced(merged)
            self.sampled[step] = merged

    def _begin(self, step: int, clock: Clock, stop: StopSignal | None) -> None:
        """Begins the step's first round: in a thread if a separate engine samples while this process trains, else at once."""
        config = self.run.config
        prompts, owned = self._prompts(self.mixture.draw(step), clock)  # in a thread it would take ten times as long
        first_round: Future[list[Group]] = Future()
        if config.rollout.is_separate and config.rollout.staleness:
            clock = Clock(is_phase=False)
            work = partial(self._sample_round, prompts, owned, step, 0, clock, stop)
            Thread(target=_resolve, args=(first_round, work), name=f"sampling of step {step}", daemon=True).start()
        else:
            first_round.set_result(self._sample_round(prompts, owned, step, 0, clock, stop))
        self.begun = step, first_round, clock

    def _completed(self, step: int, groups: list[Group], clock: Clock, stop: StopSignal | None) -> Batch | None:
        """The step's batch: its first round's groups, dynamic sampling's further rounds, and the balance. None after a signal."""
        run, config = self.run, self.run.config
        batch, drawn = Batch(), self.mixture.draw(step)
        fresh, rounds_left = drawn, config.sampling.dynamic_sampling_rounds
        while True:
            if stop and run.ranks.any(stop.requested):
                return None
            slots = {draw.slot for draw in fresh}  # the group that replaces another may be another rank's
            batch.replaced += [batch.by_slot.pop(slot) for slot in sorted(slots & batch.by_slot.keys())]
            batch.by_slot |= {group.prompt.slot: group for group in groups}
            if not rounds_left:
                break
            rounds_left -= 1
            equal = [group.prompt.slot for group in groups if has_equal_rewards(group)]
            fresh = self.mixture.redraw(step, drawn, {slot for part in run.ranks.gather(equal) for slot in part})
            if not fresh:
                break
            drawn = [*drawn, *fresh]
            prompts, owned = self._prompts(fresh, clock)
            groups = self._sample_round(prompts, owned, step, fresh[0].round, clock, stop)
        batch.metrics = _latencies(self.scorer)
        with clock("time/balance"):
            return self._balanced(batch)

    def _balanced(self, batch: Batch) -> Batch:
        """The batch after groups have changed mini-batches and ranks."""
        run, algorithm = self.run, self.run.config.algorithm
        keep_zero = algorithm.kl_coefficient > 0
        groups, idle = balance(batch.groups, run.cost, run.ranks, minibatches=algorithm.minibatches, keep_zero=keep_zero)
        by_slot = {group.prompt.slot: group for group in groups}
        return replace(batch, by_slot=by_slot, metrics=step_metrics(idle) | batch.metrics)

    def _with_encoding(self, group: Group) -> Group:
        (prompt,) = encode_prompts([group.prompt], self.run.encoder, self.run.config.engine.max_model_len)
        return replace(group, prompt=prompt)

    def _prompts(self, draws: list[Draw], clock: Clock) -> tuple[list[Prompt], set[int]]:
        """The draws' prompts that this rank's engine samples, encoded, and the slots that this rank owns."""
        sampled, owned = self.run.replica(self.run.prompts(draws))
        with clock("time/encode"):
            return encode_prompts(sampled, self.run.encoder, self.run.config.engine.max_model_len), owned

    def _sample_round(
        self, prompts: list[Prompt], owned: set[int], step: int, number: int, clock: Clock, stop: StopSignal | None
    ) -> list[Group]:
        """This rank's groups of a round's prompts; none if a signal came. stop: None if no signal may end it.

        Ranks exchange nothing here, but for those of one tensor-parallel engine, so a thread may do it beside the training.
        """
        config, rollbacks = self.run.config, self.run.rollbacks
        more = [number, rollbacks] if rollbacks else [number] if number else []  # a run that never went back keeps its seeds
        try:
            groups = sample_groups(
                prompts,
                engine=self.engine,
                scorer=self.scorer,
                decoding=Decoding(temperature=config.sampling.temperature),
                seed=lambda slot, sample: sampling_seed(config.seed, step, slot, sample, *more),
                owned=owned,
                tick=partial(stop.end_sampling, config.engine.tensor_parallel) if stop else lambda: None,
                clock=clock,
            )
        except Stopped:
            return []
        mixture = config.mixture
        rewarded = [compose_rewards(group, mixture[group.prompt.task].reward) for group in groups]
        return [with_advantages(group, config.algorithm, weight=mixture[group.prompt.task].loss_weight) for group in rewarded]


def _without_encoding(group: Group) -> Group:
    """The group without its prompt's tokens and pixels, which its row gives again."""
    return replace(group, prompt=replace(group.prompt, encoded=None))


def _resolve(result: "Future[list[Group]]", work: Callable[[], list[Group]]) -> None:
    """Does the work and gives its result, or its error, to whoever waits for it."""
    try:
        result.set_result(work())
    except BaseException as error:
        result.set_exception(error)


def refilled(batch: Batch) -> Totals:
    """By task: the share of groups that replaced another, of groups that have no gradient in the end, and the updates of the
    policy since its rollouts were sampled."""
    return combine(
        {
            Key("rollout/refilled", group.prompt.task): Mean(group.prompt.round > 0),
            Key("rollout/no_gradient", group.prompt.task): Mean(not group.has_gradient),
            Key("rollout/updates_since", group.prompt.task): Mean(
                sum(batch.version - sample.rollout.weight_version for sample in group.samples), len(group.samples)
            ),
        }
        for group in batch.groups
    )


def has_equal_rewards(group: Group) -> bool:
    """Whether the group was scored and teaches nothing."""
    return any(sample.is_scored for sample in group.samples) and not group.has_gradient


def _latencies(scorer: Scorer) -> Metrics:
    """The median and 99th percentile of each task's scoring time in seconds."""
    return {
        Key(f"scoring/p{percent}_s", task): percentile(seconds, percent)
        for task, seconds in scorer.latencies.items()
        for percent in (50, 99)
    }

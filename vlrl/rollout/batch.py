"""Makes a step's batch: prompts at the mixture's ratios, sampled, scored and given advantages.

A group whose rewards are all equal has no gradient. With dynamic sampling, a group for another row of the same task replaces it,
so that the mixture's ratios hold among the groups that count.
"""

import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Thread

from vlrl.common.signals import Stopped, StopSignal
from vlrl.data.mixture import Mixture
from vlrl.rollout.balance import balance
from vlrl.rollout.engine import Decoding, Engine, sampling_seed
from vlrl.rollout.groups import encode_prompts, with_advantages
from vlrl.rollout.responses import Responses, sample_responses
from vlrl.rollout.reward import compose_rewards
from vlrl.run import Run
from vlrl.scoring import Scorer
from vlrl.telemetry.clock import Clock, percentile
from vlrl.telemetry.metrics import Key, Mean, Metrics, Totals, combine, step_metrics
from vlrl.types import Draw, Group


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

    A batch is begun right after a weight sync. It is completed before the next one, or, with rollout.partial_tokens, before its
    own step: then responses that are longer go on under the next weights. What a batch draws depends on (seed, step) alone and,
    in later rounds of dynamic sampling, on the rewards.

    run: with the settings that rollbacks have changed. sampled: the batches that wait for their step. begun: the first rounds of
    those that are not complete. beside: what is sampled since the last weight sync, and its clock; beside the training if the
    engine is separate.
    """

    run: Run
    mixture: Mixture
    engine: Engine
    scorer: Scorer
    stop: StopSignal
    sampled: dict[int, Batch] = field(default_factory=dict)
    begun: dict[int, Responses] = field(default_factory=dict)
    beside: tuple["Future[list[int]]", Clock] | None = None

    def take(self, step: int, clock: Clock) -> Batch | None:
        """The step's batch, after it has begun what is sampled beside the step. None if a signal came meanwhile.

        A signal ends the sampling only before the first step that no saved batch precedes, or without staleness: later, the
        weights that sample what is missing would be gone when the run resumes.
        """
        config, ahead = self.run.config, self.run.config.rollout.staleness
        stop = self.stop if step == 0 or not ahead else None
        for needed in range(step, min(step + max(ahead, 1), config.steps)):
            if needed not in self.sampled and needed not in self.begun:
                self.begun[needed] = self._first_round(needed, clock)
                self._sample({needed: None}, clock, stop)
                if not self._complete(needed, clock, stop):
                    return None
        if ahead:
            self._begin_beside(step, clock)
        return self.sampled.pop(step)

    def complete(self, clock: Clock) -> None:
        """Waits for what is sampled beside the step, if anything is, and completes the batches that are due."""
        if not self.beside:
            return
        work, beside = self.beside
        self.beside = None
        with clock("time/sampling_ahead") if beside is not clock else nullcontext():
            due = work.result()
        for step in due:
            self._complete(step, clock, None)
        if beside is not clock:
            names = {name: f"ahead/{name.removeprefix('time/')}_s" for name in beside.seconds if name.startswith("time/")}
            next_one = self.sampled[min(self.sampled)]
            next_one.metrics |= step_metrics({names.get(name, name): each for name, each in beside.seconds.items()})

    def save(self, folder: Path) -> None:
        """Writes what this rank has sampled ahead: the weights that sampled it are gone when the run resumes."""
        if self.run.config.rollout.staleness:
            sampled = {step: batch.with_groups(_without_encoding) for step, batch in self.sampled.items()}
            begun = {step: (responses.begun, responses.samples) for step, responses in self.begun.items()}
            (folder / f"sampled-{self.run.ranks.rank}.pkl").write_bytes(pickle.dumps((sampled, begun)))

    def load(self, checkpoint: Path | None) -> None:
        """Takes what a checkpoint has sampled ahead, None for nothing. Other ranks than those that saved it share it anew."""
        ranks, self.sampled, self.begun, self.beside = self.run.ranks, {}, {}, None
        paths = sorted(checkpoint.glob("sampled-*.pkl")) if checkpoint else []
        every = [pickle.loads(path.read_bytes()) for path in paths]
        for step in sorted(set().union(*(sampled for sampled, _ in every))):
            merged = Batch()
            for batch in (sampled[step] for sampled, _ in every[ranks.rank :: ranks.size]):
                merged.by_slot |= batch.by_slot
                merged.replaced += batch.replaced
                merged.metrics |= batch.metrics
            merged = merged.with_groups(self._with_encoding)
            if len(paths) != ranks.size:
                merged = self._balanced(merged)
            self.sampled[step] = merged
        for step in sorted(set().union(*(begun for _, begun in every))):
            responses = self.begun[step] = self._first_round(step, Clock())
            rest, samples = ({place: each for _, begun in every for place, each in begun[step][part].items()} for part in (0, 1))
            responses.begun = {place: rest[place] for place in responses.begun if place in rest}
            responses.samples = {place: each for place, each in samples.items() if place[0] in responses.owned}

    def _first_round(self, step: int, clock: Clock) -> Responses:
        return self._responses(self.mixture.draw(step), step, 0, clock)

    def _responses(self, draws: list[Draw], step: int, number: int, clock: Clock) -> Responses:
        """Responses to the draws' prompts that this rank's engine samples; none of them is sampled yet."""
        run, place = self.run, (self.run.config.seed, step)
        sampled, owned = run.replica(run.prompts(draws))
        with clock("time/encode"):  # in a thread beside the training it would take ten times as long
            prompts = encode_prompts(sampled, run.encoder, run.config.engine.max_model_len)
        # A run that never went back keeps its seeds.
        more = [number, run.rollbacks] if run.rollbacks else [number] if number else []

        def seed(slot: int, sample: int, tokens: int) -> int:
            return sampling_seed(*place, slot, sample, *([number, run.rollbacks, tokens] if tokens else more))

        return Responses.to(prompts, owned, seed)

    def _begin_beside(self, step: int, clock: Clock) -> None:
        """Begins what is sampled beside the step: in a thread if a separate engine works while this process trains."""
        config = self.run.config
        newest = step + config.rollout.staleness
        if newest < config.steps and newest not in self.sampled:
            self.begun[newest] = self._first_round(newest, clock)
        if not self.begun:
            return
        most = config.rollout.partial_tokens
        limits = {each: None if each == step + 1 else most for each in sorted(self.begun)}
        work: Future[list[int]] = Future()
        if config.rollout.is_separate:
            clock = Clock(is_phase=False)
            Thread(target=_resolve, args=(work, partial(self._sample, limits, clock, None)), name="sampling", daemon=True).start()
        else:
            work.set_result(self._sample(limits, clock, None))
        self.beside = work, clock

    def _sample(self, limits: Mapping[int, int | None], clock: Clock, stop: StopSignal | None) -> list[int]:
        """Samples the batches that are begun, each up to its limit. Returns those without a limit.

        stop: None if no signal may end it. Ranks exchange nothing here, but for those of one tensor-parallel engine, so a thread
        may do it beside the training.
        """
        with suppress(Stopped):
            self._continue({self.begun[step]: most for step, most in limits.items()}, clock, stop)
        return [step for step, most in limits.items() if most is None]

    def _continue(self, limits: Mapping[Responses, int | None], clock: Clock, stop: StopSignal | None) -> None:
        config = self.run.config
        sample_responses(
            limits,
            engine=self.engine,
            scorer=self.scorer,
            decode=self.run.encoder.decode,
            decoding=Decoding(temperature=config.sampling.temperature),
            tick=partial(stop.end_sampling, config.ranks_per_engine) if stop else lambda: None,
            clock=clock,
        )

    def _complete(self, step: int, clock: Clock, stop: StopSignal | None) -> bool:
        """Makes a batch of the step's first round: dynamic sampling's further rounds, and the balance. False if a signal came."""
        run, config = self.run, self.run.config
        batch, drawn, responses = Batch(), self.mixture.draw(step), self.begun.pop(step)
        fresh, rounds_left = drawn, config.sampling.dynamic_sampling_rounds
        while True:
            if stop and run.ranks.any(stop.requested):
                return False
            groups = self._with_rewards(responses.groups())
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
            responses = self._responses(fresh, step, fresh[0].round, clock)
            with suppress(Stopped):
                self._continue({responses: None}, clock, stop)
        batch.metrics = _latencies(self.scorer)
        with clock("time/balance"):
            self.sampled[step] = self._balanced(batch)
        return True

    def _with_rewards(self, groups: list[Group]) -> list[Group]:
        """The groups with the rewards that the run file composes, and their advantages."""
        config, mixture = self.run.config, self.run.config.mixture
        rewarded = [compose_rewards(group, mixture[group.prompt.task].reward) for group in groups]
        return [with_advantages(group, config.algorithm, weight=mixture[group.prompt.task].loss_weight) for group in rewarded]

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


def _without_encoding(group: Group) -> Group:
    """The group without its prompt's tokens and pixels, which its row gives again."""
    return replace(group, prompt=replace(group.prompt, encoded=None))


def _resolve(result: "Future[list[int]]", work: Callable[[], list[int]]) -> None:
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
            Key("rollout/updates_since", group.prompt.task): _updates_since(group, batch.version),
        }
        for group in batch.groups
    )


def _updates_since(group: Group, version: int) -> Mean:
    """The mean over the group's tokens."""
    versions = [each for sample in group.samples for each in sample.rollout.weight_versions]
    return Mean(sum(version - each for each in versions), len(versions))


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

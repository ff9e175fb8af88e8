"""The trainer: all that a run is made of, from its start, or a checkpoint, to the weights after each step.

A rollback is a resume within the process: both read the record of rollbacks, load the newest good checkpoint that it leaves, cut
the logs back and feed the collapse watch with what remains. So a run that is killed during a rollback ends like one that was not.
"""

import logging
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch

from vlrl.common.jsonl import write_atomically
from vlrl.common.signals import Interrupted, StopSignal
from vlrl.distributed.ranks import Ranks
from vlrl.rollout.batch import Batch, Sampler
from vlrl.rollout.canary import Canary
from vlrl.rollout.engine import Engine
from vlrl.rollout.groups import encode_prompts
from vlrl.rollout.start import start_engine
from vlrl.rollout.unscored import Unscored
from vlrl.rollout.weight_sync import push_adapter, push_weights, sync_of
from vlrl.run import Run
from vlrl.run_file import dump_config
from vlrl.scoring import Scorer
from vlrl.scoring.start import start_scorer
from vlrl.telemetry.clock import Clock
from vlrl.telemetry.collapse_watch import Alarm, CollapseWatch
from vlrl.telemetry.gradient_watch import GradientWatch
from vlrl.telemetry.metrics import Metrics, read_metrics
from vlrl.telemetry.progress import announce
from vlrl.telemetry.run_log import RunLog
from vlrl.trackers.start import open_trackers
from vlrl.trainer import rollback
from vlrl.trainer.checkpointing import Checkpointing
from vlrl.trainer.micro_batch import make_minibatch, with_old_scores
from vlrl.trainer.policy import Policy
from vlrl.trainer.reference import FrozenModel, Reference, WithoutAdapters
from vlrl.trainer.rollback import Rollback
from vlrl.trainer.token_budget import PlannedGroup, choose_token_budget
from vlrl.trainer.update import MOST_TRACED, TaskGates, UpdateStats, update
from vlrl.types import Group

logger = logging.getLogger(__name__)

_SAMPLES = 64  # prompts that the token budget is chosen for


@dataclass(kw_only=True, slots=True)
class Trainer:
    """A started run. All ranks call each method together.

    run: as the run file says; sampler and gates have the settings that rollbacks have changed. log: on the first rank alone.
    reference: only with a KL term. sync: how the engine gets LoRA's adapters; None if the whole model is trained.
    """

    run: Run
    policy: Policy
    engine: Engine
    canary: Canary
    sampler: Sampler
    scorer: Scorer
    stop: StopSignal
    gates: TaskGates
    checkpointing: Checkpointing
    log: RunLog | None
    reference: Reference | None
    sync: Literal["adapter", "merged"] | None
    rollbacks: tuple[Rollback, ...] = ()
    collapse: CollapseWatch = field(default_factory=CollapseWatch)
    gradients: GradientWatch = field(default_factory=GradientWatch)
    unscored: Unscored = field(default_factory=Unscored)

    @classmethod
    def start(cls, run: Run, model: str, stack: ExitStack) -> "Trainer":
        """Starts every part on the model from which the run samples first; the stack closes them."""
        config, ranks = run.config, run.ranks
        say = partial(announce, shown=ranks.is_first)
        say("Loading the model")
        shared: dict[str, Any] = {"ranks": ranks, "temperature": config.sampling.temperature, "banned": run.banned}
        updates = config.steps * config.algorithm.minibatches
        policy = Policy(config.policy, model, updates=updates, lora=config.lora, **shared)
        # One that only a rollback needs is loaded too, so that the token budget is chosen with it in memory.
        has_kl = config.algorithm.kl_coefficient or config.rollback.kl_coefficient
        reference: Reference | None = None
        if has_kl:
            reference = WithoutAdapters(policy) if config.lora else FrozenModel(config.policy, model, **shared)
        say("Starting vLLM")
        sync = sync_of(config.lora, on_gpu=torch.cuda.is_available()) if config.lora else None
        if sync:
            form = "as they are" if sync == "adapter" else "merged into their weights"
            say(f"Adapters reach the engine {form} (lora.sync: {sync})")
        engine = stack.enter_context(closing(start_engine(run, model, lora=config.lora if sync == "adapter" else None)))
        if ranks.any(engine.version != policy.version):
            _push_weights(policy, engine, sync)
        say("Starting the verifiers")
        canary = Canary(
            policy,
            engine,
            run.encoder,
            temperature=config.sampling.temperature,
            tolerance=config.engine.canary_tolerance,
        )
        scorer = stack.enter_context(start_scorer(config))
        stop = stack.enter_context(closing(StopSignal()))
        log = stack.enter_context(closing(_open_log(run))) if ranks.is_first else None
        return cls(
            run=run,
            policy=policy,
            engine=engine,
            canary=canary,
            sampler=Sampler(run=run, mixture=run.mixture(), engine=engine, scorer=scorer, stop=stop),
            scorer=scorer,
            stop=stop,
            gates=TaskGates(config.algorithm, config.mixture),
            checkpointing=Checkpointing(run, policy, stop),
            log=log,
            reference=reference,
            sync=sync,
        )

    def resume(self) -> int:
        """Returns the step to continue from: 0, or that of the newest good checkpoint, which it loads."""
        run, config = self.run, self.run.config
        step = self._load()
        if not self.policy.max_tokens_per_micro_batch:  # also of a checkpoint of other ranks, which had other memory left
            self.engine.sleep()
            groups = config.prompts_per_step // config.algorithm.minibatches
            choose_token_budget(run, self.policy, self._planned_groups, groups=-(-groups // run.ranks.size), phase="training")
            self.engine.wake()
        if step is None and config.on_collapse == "rollback":
            self.save(0, wait=True)
        if self.log:
            if step is not None:
                print(f"{config.folder} continues after step {step}", flush=True)
            (config.folder / "summary.json").unlink(missing_ok=True)  # it would say that the run has ended as config.yaml says
            write_atomically(config.folder / "config.yaml", [dump_config(config)])
        return step or 0

    def sample(self, step: int, clock: Clock) -> Batch | None:
        """This rank's part of the step, sampled and scored; None if a signal came."""
        return self.sampler.take(step, clock)

    def update(self, batch: Batch, clock: Clock) -> list[UpdateStats]:
        """Makes the step's optimizer steps, one per mini-batch; the old policy is the one before the first."""
        settings, run = self.gates.settings, self.run
        self.engine.sleep()
        batch.version = self.policy.version
        with clock("time/pack"):
            minibatches = [
                make_minibatch(
                    [group for group in batch.groups if group.prompt.minibatch == number],
                    filler=run.filler,
                    budget=self.policy.max_tokens_per_micro_batch,
                    tokens_per_patch=self.policy.tokens_per_patch,
                    keep_zero=settings.kl_coefficient > 0,
                    mask_truncated=settings.mask_truncated,
                    ranks=run.ranks,
                )
                for number in range(settings.minibatches)
            ]
        if settings.old_policy == "trainer":
            with clock("time/old_logprobs"):
                minibatches[1:] = [with_old_scores(self.policy, minibatch) for minibatch in minibatches[1:]]
        traced = _traced(batch.groups, settings.minibatches, run.ranks)
        return [
            update(
                self.policy,
                minibatch,
                gates=self.gates,
                longest=run.config.sampling.max_new_tokens,
                reference=self.reference if settings.kl_coefficient else None,
                traced=traced,
                clock=clock,
            )
            for minibatch in minibatches
        ]

    def sync_weights(self, clock: Clock) -> dict[str, float]:
        """Gives the engine the policy's weights, and compares the two on the canary. Returns metrics of the sync.

        What is sampled beside the step ends first, under the weights with which it began.
        """
        policy, every = self.policy, self.run.config.engine.canary_every
        self.engine.wake()
        self.sampler.complete(clock)
        with clock("time/sync"):
            metrics = _push_weights(policy, self.engine, self.sync)
        with clock("time/canary"):
            if every and policy.version // self.run.config.algorithm.minibatches % every == 0:
                self.canary.check()
        return metrics

    def save(self, step: int, *, wait: bool) -> None:
        """Saves a checkpoint after `step` steps; see Checkpointing.save."""
        self.checkpointing.save(step, self.collapse, self.sampler, rollbacks=len(self.rollbacks), wait=wait)

    def interrupted(self) -> Interrupted:
        """What to raise when a signal stops the run."""
        return Interrupted(
            self.stop.number, f"the same command continues from the newest checkpoint in {self.checkpointing.root}"
        )

    def warn_without_gradient(self, step: int, metrics: Metrics) -> None:
        """Warns if rewards give no gradient."""
        for sentence in self.gradients.see(step, metrics):
            if self.run.ranks.is_first:
                logger.warning("%s", sentence)

    def stop_if_unscored(self, step: int, batch: Batch) -> None:
        """RuntimeError if too many of a task's latest rollouts could not be scored."""
        most = self.run.config.scoring.max_failed_share
        self.unscored.see(batch.sampled, self.run.ranks, most=most, where=f"step {step}")

    def act_on_collapse(self, step: int, metrics: Metrics) -> int:
        """Warns of a collapse, and stops or goes back as on_collapse asks. Returns the step to continue from."""
        run, config = self.run, self.run.config
        alarms = self._watch_for_collapse(step, metrics)
        if not alarms:
            return step
        warning = f"step {step}: {'; '.join(alarm.sentence for alarm in alarms)}"
        if config.on_collapse == "stop":
            raise RuntimeError(
                f"{warning}. Stopped, as on_collapse asks; the checkpoints from before are in {config.folder}/checkpoints"
            )
        chosen = rollback.decide(config, self.rollbacks, alarms, self.checkpointing.regular(), step)
        if run.ranks.is_first:
            used_up = rollback.used_up(config, self.rollbacks, alarms)
            logger.warning("%s", rollback.announcement(config, chosen) if chosen else warning + used_up)
        if not chosen:
            return step
        if self.log:
            rollback.write_record(config.folder, [*self.rollbacks, chosen])
        run.ranks.barrier()
        earlier = self._load()
        assert earlier is not None, f"the checkpoints of {config.folder} are gone"
        if self.log:
            self.log.begin_another_copy()
        return earlier

    def _load(self) -> int | None:
        """Brings policy, engine, settings, logs and watches to the newest good checkpoint. Returns its step, or None without one.

        It first completes the newest rollback in the record, whether this process decided it or one that was killed since.
        """
        run, config = self.run, self.run.config
        rollbacks = run.ranks.broadcast(rollback.read_record(config.folder) if self.log else ())
        if self.log and rollbacks:
            self.log.set_aside(rollbacks[-1].to_step, config.folder / rollback.LEFT_BEHIND / str(len(rollbacks)))
            self.checkpointing.drop_left_behind(rollbacks)
        run.ranks.barrier()
        found = self.checkpointing.load_newest(lambda: rollback.lr_scale(config, rollbacks))
        if not found and self.log:
            rollback.begin_anew(config.folder)
        self._apply_rollbacks(rollbacks if found else ())
        self.sampler.load(found.path if found else None)
        if found:
            _push_weights(self.policy, self.engine, self.sync)
            self.canary.check()
        if self.log:
            self.log.truncate(found.step if found else 0)
        self.collapse, self.gradients = CollapseWatch(), GradientWatch()
        lines = run.ranks.broadcast(self.log.metrics() if self.log else [])
        if self.log and found:
            _warn_of_lost_steps(config.folder, {line["step"] for line in lines}, found.step)
        for line in lines:
            metrics = read_metrics(line, config.mixture)
            self._watch_for_collapse(line["step"], metrics)
            self.gradients.see(line["step"], metrics)
        return found.step if found else None

    def _apply_rollbacks(self, rollbacks: tuple[Rollback, ...]) -> None:
        """Changes the settings as these rollbacks ask."""
        changed = rollback.changed(self.run.config, rollbacks)
        self.rollbacks = rollbacks
        self.sampler.run = replace(self.run, config=changed, rollbacks=len(rollbacks))
        self.gates = TaskGates(changed.algorithm, changed.mixture)

    def _watch_for_collapse(self, step: int, metrics: Metrics) -> list[Alarm]:
        """The collapse watch's alarms at this step; the newest checkpoint from before one is then kept for good."""
        alarms = self.collapse.see(step, metrics)
        if alarms:
            self.checkpointing.protect_newest_before(step)
        return alarms

    def _planned_groups(self) -> list[PlannedGroup]:
        """Groups of the first step's prompts, if every response were as long as it may be."""
        run = self.run
        prompts = run.prompts(self.sampler.mixture.draw(0)[:_SAMPLES])
        return [
            PlannedGroup(prompt=prompt.encoded, group_size=prompt.group_size, max_new_tokens=prompt.max_new_tokens)
            for prompt in encode_prompts(prompts, run.encoder, run.config.engine.max_model_len)
            if prompt.encoded
        ]


def _push_weights(policy: Policy, engine: Engine, sync: Literal["adapter", "merged"] | None) -> dict[str, float]:
    if sync == "adapter":
        return push_adapter(engine, policy.write_adapter, version=policy.version)
    buckets = policy.weight_buckets(trained_only=True)
    return push_weights(engine, buckets, names=policy.trained_names, version=policy.version)


def _open_log(run: Run) -> RunLog:
    return RunLog(run.config.folder, open_trackers(run.config))


def _warn_of_lost_steps(folder: Path, logged: set[int], step: int) -> None:
    """Warns if the log lacks steps up to the checkpoint's: a machine that failed may have lost what was not on its disk yet."""
    if lost := sorted(set(range(1, step + 1)) - logged):
        logger.warning(
            "%s/metrics.jsonl has lost %d of the %d steps before the checkpoint, such as step %d; the run continues, and its "
            "report and its watch for a collapse lack them",
            *(folder, len(lost), step, lost[0]),
        )


def _traced(groups: list[Group], minibatches: int, ranks: Ranks) -> set[tuple[int, int]]:
    """The responses to log token by token, as (slot, sample): of one group of each task, the first of all ranks' groups with a
    gradient in the last mini-batch, which is the furthest from the old policy. Of its responses those with the largest
    advantages, up to MOST_TRACED tokens."""
    learnt = {group.prompt.slot: group for group in groups if group.prompt.minibatch == minibatches - 1 and group.has_gradient}
    everywhere = sorted(chain.from_iterable(ranks.gather([(slot, group.prompt.task) for slot, group in learnt.items()])))
    first = {task: slot for slot, task in reversed(everywhere)}
    chosen = set()
    for group in (learnt[slot] for slot in first.values() if slot in learnt):
        room = MOST_TRACED
        for each in sorted(group.samples, key=lambda sample: -abs(sample.advantage)):
            if room == MOST_TRACED or len(each.rollout.tokens) <= room:
                chosen.add((group.prompt.slot, each.rollout.sample))
                room -= len(each.rollout.tokens)
    return chosen

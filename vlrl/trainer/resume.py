"""A run's parts, and how they come to a checkpoint's state: saved, resumed, and rolled back from a collapse.

A rollback is a resume within the process: both read the record of rollbacks, load the newest good checkpoint that it leaves, cut
the logs back and feed the collapse watch with what remains. So a run that is killed while it goes back ends as if it were not.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from vlrl.common.jsonl import write_atomically
from vlrl.common.signals import StopSignal
from vlrl.config import dump_config
from vlrl.data.mixture import Mixture
from vlrl.distributed import checkpoint as checkpoints
from vlrl.rollout.canary import Canary
from vlrl.rollout.engine import Engine
from vlrl.rollout.groups import encode_prompts
from vlrl.rollout.unscored import Unscored
from vlrl.rollout.weight_sync import push_weights
from vlrl.run import Run
from vlrl.scoring import Scorer
from vlrl.telemetry.collapse_watch import Alarm, CollapseWatch
from vlrl.telemetry.gradient_watch import GradientWatch
from vlrl.telemetry.metrics import Metrics, read_metrics
from vlrl.telemetry.run_log import RunLog
from vlrl.trainer import rollback
from vlrl.trainer.policy import Policy, Reference
from vlrl.trainer.rollback import Rollback
from vlrl.trainer.token_budget import Sample, choose_token_budget
from vlrl.trainer.update import TaskGates

logger = logging.getLogger(__name__)

_SAMPLES = 64


@dataclass(kw_only=True, slots=True)
class Parts:
    """What a run is made of, once everything has started. in_force: the run with the settings that its rollbacks have changed."""

    run: Run
    in_force: Run
    mixture: Mixture
    policy: Policy
    engine: Engine
    canary: Canary
    scorer: Scorer
    stop: StopSignal
    gates: TaskGates
    log: RunLog | None
    reference: Reference | None
    rollbacks: tuple[Rollback, ...] = ()
    watch: CollapseWatch = field(default_factory=CollapseWatch)
    gradients: GradientWatch = field(default_factory=GradientWatch)
    unscored: Unscored = field(default_factory=Unscored)
    protected: set[int] = field(default_factory=set)
    """Checkpoints from before a collapse, which are not pruned."""
    finish_save: Callable[[], None] = lambda: None
    """Waits for the checkpoint that is being sealed."""
    saved: set[int] = field(default_factory=set)
    """Steps whose checkpoint this process wrote or loaded; another folder of a step may be damaged."""


def resume(parts: Parts) -> int:
    """The step to go on from: 0, or that of the newest good checkpoint, loaded."""
    run, config = parts.run, parts.run.config
    step = _load(parts)
    if step is None:
        parts.engine.sleep()
        groups = config.prompts_per_step // config.algorithm.minibatches
        choose_token_budget(run, parts.policy, partial(_samples, parts), groups=-(-groups // run.ranks.size), phase="training")
        parts.engine.wake()
        if config.on_collapse == "rollback":
            save(parts, 0, wait=True)
    if parts.log:
        if step is not None:
            print(f"{config.folder} goes on after step {step}", flush=True)
        (config.folder / "summary.json").unlink(missing_ok=True)  # it stands for a run that came to its end as config.yaml says
        write_atomically(config.folder / "config.yaml", [dump_config(config)])
    return step or 0


def _load(parts: Parts) -> int | None:
    """Brings policy, engine, settings, logs and watch to the newest good checkpoint of the run's record. Returns its step, None
    where there is none.

    This completes a rollback that is recorded, for the run that decided it or for one that was killed since.
    """
    run, config, root = parts.run, parts.run.config, parts.run.config.folder / "checkpoints"
    rollbacks = run.ranks.gather(rollback.read_record(config.folder) if parts.log else ())[0]
    if parts.log and rollbacks:
        parts.log.set_aside(rollbacks[-1].to_step, config.folder / rollback.LEFT_BEHIND / str(len(rollbacks)))
        checkpoints.drop(root, lambda step, state: rollback.is_left_behind(step, state["rollbacks"], rollbacks))
    run.ranks.barrier()
    found = checkpoints.newest_good(root, rank=run.ranks.rank, world_size=run.ranks.size, agree=run.ranks.min)
    if not found and parts.log:
        rollback.begin_anew(config.folder)
    _put_in_force(parts, rollbacks if found else ())
    if found:
        checkpoints.check_same_config(found.state, run.identity, step=found.step)
        parts.policy.load(found.path, lr_scale=rollback.lr_scale(config, rollbacks))
        parts.policy.max_tokens_per_micro_batch = found.state[
            "max_tokens_per_micro_batch"
        ]  # in other passes its last bits would be others
        parts.saved = {found.step}
        push_weights(
            parts.engine, parts.policy.weight_buckets(), names=parts.policy.parameter_names, version=parts.policy.version
        )
        parts.canary.check()
    if parts.log:
        parts.log.truncate(found.step if found else 0)
    parts.watch, parts.gradients, parts.protected = CollapseWatch(), GradientWatch(), set()
    for line in run.ranks.gather(parts.log.metrics() if parts.log else [])[0]:
        metrics = read_metrics(line, config.mixture)
        _watch(parts, line["step"], metrics)
        parts.gradients.see(line["step"], metrics)
    return found.step if found else None


def _put_in_force(parts: Parts, rollbacks: tuple[Rollback, ...]) -> None:
    """The settings that these rollbacks have changed."""
    changed = rollback.changed(parts.run.config, rollbacks)
    parts.rollbacks = rollbacks
    parts.in_force = replace(parts.run, config=changed, rollbacks=len(rollbacks))
    parts.gates = TaskGates(changed.algorithm, changed.mixture)


def _samples(parts: Parts) -> list[Sample]:
    """What the first step's passes would be made of, were all responses as long as they may be."""
    prompts = parts.run.prompts(parts.mixture.draw(0)[:_SAMPLES])
    encoded = encode_prompts(prompts, parts.run.encoder, parts.run.config.engine.max_model_len)
    return [
        Sample(prompt=encoded[prompt.slot], group_size=prompt.group_size, max_new_tokens=prompt.max_new_tokens)
        for prompt in prompts
        if prompt.slot in encoded
    ]


def _watch(parts: Parts, step: int, metrics: Metrics) -> list[Alarm]:
    """What the collapse watch calls at this step; the newest checkpoint from before is then kept for good."""
    called = parts.watch.see(step, metrics)
    if called and (earlier := [each for each in _regular_checkpoints(parts) if each < step]):
        parts.protected.add(max(earlier))
    return called


def act_on_collapse(parts: Parts, step: int, metrics: Metrics) -> int:
    """Says what the collapse watch calls, and does as on_collapse asks. Returns the step to go on from: this one, or the one
    that the run went back to."""
    run, config = parts.run, parts.run.config
    called = _watch(parts, step, metrics)
    if not called:
        return step
    told = f"step {step}: {'; '.join(call.sentence for call in called)}"
    if config.on_collapse == "stop":
        raise RuntimeError(f"{told}. Stopped, as on_collapse asks; what was saved before is in {config.folder}/checkpoints")
    chosen = rollback.decide(config, parts.rollbacks, called, _regular_checkpoints(parts), step)
    if run.ranks.is_first:
        logger.warning(
            "%s", rollback.announcement(config, chosen) if chosen else told + rollback.used_up(config, parts.rollbacks, called)
        )
    if not chosen:
        return step
    if parts.log:
        rollback.write_record(config.folder, [*parts.rollbacks, chosen])
    run.ranks.barrier()
    kept = _load(parts)
    assert kept is not None, f"the checkpoints of {config.folder} are gone"
    if parts.log:
        parts.log.begin_another_copy()
    return kept


def _regular_checkpoints(parts: Parts) -> list[int]:
    """The steps of the checkpoints that are due by checkpoints.every, the same on every rank."""
    ranks, settings = parts.run.ranks, parts.run.config.checkpoints
    steps = ranks.gather(checkpoints.saved_steps(parts.run.config.folder / "checkpoints") if ranks.is_first else [])[0]
    return [step for step in steps if step % (settings.every or 1) == 0]


def save(parts: Parts, step: int, *, wait: bool) -> None:
    """Saves the state after `step` steps, unless it is there already or the time that a signal left is over.

    wait: until it is sealed; else that goes on beside the next step.
    """
    run, settings = parts.run, parts.run.config.checkpoints
    root = run.config.folder / "checkpoints"
    too_late = run.ranks.any(parts.stop.grace_over(settings.signal_grace_s))
    if not too_late and step not in parts.saved:
        parts.finish_save()
        protected = set(parts.protected)
        if run.config.on_collapse == "rollback":
            protected |= rollback.protected(
                checkpoints.saved_steps(root),
                step,
                every=settings.every,
                keep=settings.keep,
                well_after=parts.watch.well_after(run.config.rollback.signals),
            )
        parts.finish_save = checkpoints.begin(
            root,
            step,
            parts.policy.save,
            run.identity
            | {"max_tokens_per_micro_batch": parts.policy.max_tokens_per_micro_batch, "rollbacks": len(parts.rollbacks)},
            keep=settings.keep,
            protected=protected,
            rank=run.ranks.rank,
            agree=run.ranks.min,
        )
        parts.saved.add(step)
    if wait:
        parts.finish_save()

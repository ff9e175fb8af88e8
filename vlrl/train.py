"""The training loop: draw a batch at the mixture's ratios, sample, score, update in mini-batches, hand the weights back.

One synchronous loop; everything it calls is a part of its own. A run resumes from its newest good checkpoint by itself, and
equals the uninterrupted one: what a step draws and samples is a pure function of (seed, step) and the weights.
"""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from vlrl import checkpoint as checkpoints
from vlrl.algorithm.diagnostics import add_histograms, combine, means, ratio_quantiles
from vlrl.checkpoint import StopSignal
from vlrl.coldstart import coldstart
from vlrl.config import Config, dump_config
from vlrl.data.mixture import Mixture
from vlrl.evaluate import Assessment, before_and_after, evaluate, evaluation_metrics
from vlrl.fit import Sample, fit_passes
from vlrl.gradient_watch import GradientWatch
from vlrl.interrupt import Interrupted
from vlrl.metrics import Clock, progress, write_whole
from vlrl.policy import Policy, Reference
from vlrl.rollout.batch import Batch, refilled, sample_batch
from vlrl.rollout.canary import Canary
from vlrl.rollout.engine import Engine
from vlrl.rollout.groups import encode_prompts, summarise, without_routes
from vlrl.rollout.scorer import start_scorer
from vlrl.rollout.start import start_engine
from vlrl.rollout.sync import push_weights
from vlrl.rollout.unscored import Unscored
from vlrl.run import Run
from vlrl.runlog import RunLog
from vlrl.scoring import Scorer
from vlrl.types import Group
from vlrl.update import Seen, TaskGates, make_minibatch, numbered, old_logprobs, update
from vlrl.watch import Watch

logger = logging.getLogger(__name__)

_SAMPLES = 64


@dataclass(kw_only=True, slots=True)
class Parts:
    """What a run is made of, once everything has started."""

    run: Run
    mixture: Mixture
    policy: Policy
    engine: Engine
    canary: Canary
    scorer: Scorer
    stop: StopSignal
    gates: TaskGates
    log: RunLog | None
    reference: Reference | None
    watch: Watch = field(default_factory=Watch)
    gradients: GradientWatch = field(default_factory=GradientWatch)
    unscored: Unscored = field(default_factory=Unscored)
    protected: set[int] = field(default_factory=set)
    """Checkpoints from before a collapse, which are not pruned."""
    finish_save: Callable[[], None] = lambda: None
    """Waits for the checkpoint that is being sealed."""
    saved: set[int] = field(default_factory=set)
    """Steps whose checkpoint this process wrote or loaded; another folder of a step may be damaged."""


def train(run: Run) -> dict[str, Any]:
    """Trains to config.steps and returns the summary. Raises Interrupted where a signal stopped it first, its state saved."""
    config = run.config
    if finished := _finished(config):
        return finished
    with ExitStack() as stack:
        parts = _start(run, stack)
        first = _resume(parts)
        before = _evaluated_before(parts, first)
        outside = Clock()
        with progress("Training", config.steps, shown=run.ranks.is_first) as tick:
            tick(first)
            for step in range(first, config.steps):
                clock = Clock(run.ranks.settle)
                with clock("time/step"):
                    batch = _sample(parts, step, clock)
                    if batch is None:
                        _save(parts, step, wait=True)
                        raise _interrupted(parts)
                    seen = _update(parts, batch, clock)
                    handed = _hand_over(parts, clock)
                evaluated = _evaluated_between(parts, step + 1)
                told = evaluated | clock.seconds | outside.seconds | batch.metrics | handed
                outside = Clock()  # what comes after a step is told with the next one's pieces
                with outside("time/save"):
                    parts.finish_save()
                with outside("time/log"):
                    metrics = _log(parts, step + 1, batch, seen, told)
                tick(1, _note(metrics))
                stopped = run.ranks.any(parts.stop.requested)
                if stopped or _is_due(config.checkpoints.every, step + 1):
                    with outside("time/save"):
                        _save(parts, step + 1, wait=stopped)
                if stopped:
                    raise _interrupted(parts)
        return _finish(parts, before)


def _interrupted(parts: Parts) -> Interrupted:
    folder = parts.run.config.folder / "checkpoints"
    return Interrupted(parts.stop.number, f"the same command goes on from the newest checkpoint in {folder}")


def _note(metrics: Mapping[str, float]) -> str:
    """The mean reward, and the task with the largest share of rollouts that it leaves out."""
    failed = {name: share for name, share in metrics.items() if name.startswith("scoring/failed/") and share}
    worst = max(failed, key=failed.__getitem__, default="")
    without = f", {failed[worst]:.0%} of {worst.removeprefix('scoring/failed/')} without a verdict" if worst else ""
    return f"reward {metrics['reward/mean']:.3f}{without}"


def _is_due(every: int, step: int) -> bool:
    return bool(every) and step % every == 0


def _sample(parts: Parts, step: int, clock: Clock) -> Batch | None:
    return sample_batch(parts.run, parts.mixture, parts.engine, parts.scorer, step, clock=clock, stop=parts.stop)


def _update(parts: Parts, batch: Batch, clock: Clock) -> list[Seen]:
    """The step's optimizer steps, one per mini-batch; π_old is the policy before the first. Returns what each saw."""
    settings, run = parts.run.config.algorithm, parts.run
    parts.engine.sleep()
    with clock("time/pack"):
        minibatches = [
            make_minibatch(
                [group for group in batch.groups if group.prompt.minibatch == number],
                batch.encoded,
                filler=run.filler,
                budget=parts.policy.tokens_per_pass,
                keep_zero=settings.kl_coefficient > 0,
                mask_truncated=settings.mask_truncated,
                ranks=run.ranks,
            )
            for number in range(settings.minibatches)
        ]
    with clock("time/old_logprobs"):
        old = [None, *(old_logprobs(parts.policy, minibatch) for minibatch in minibatches[1:])]
    return [
        update(
            parts.policy,
            minibatch,
            old_logp,
            gates=parts.gates,
            longest=run.config.sampling.max_new_tokens,
            reference=parts.reference,
            traced=_traced(batch.groups, settings.minibatches),
            clock=clock,
        )
        for minibatch, old_logp in zip(minibatches, old, strict=True)
    ]


def _traced(groups: list[Group], minibatches: int) -> set[int]:
    """The first slot of each task with a gradient in the last mini-batch, which is the furthest from π_old."""
    learnt = [group.prompt for group in groups if group.prompt.minibatch == minibatches - 1 and any(group.advantages)]
    return set({prompt.task: prompt.slot for prompt in reversed(learnt)}.values())


def _token_lines(run: Run, groups: list[Group], seen: list[Seen]) -> list[dict[str, Any]]:
    """The traced responses, with each token as text."""
    rollouts = {(rollout.slot, rollout.sample): rollout for group in groups for rollout in group.rollouts}
    return [
        asdict(trace) | {"pieces": [run.encoder.decode([token]) for token in rollouts[trace.slot, trace.sample].tokens]}
        for each in seen
        for trace in each.traces
    ]


def _hand_over(parts: Parts, clock: Clock) -> dict[str, float]:
    """The policy's weights to the engine, then the canary. Returns what was handed over, as metrics."""
    policy, every = parts.policy, parts.run.config.engine.canary_every
    parts.engine.wake()
    with clock("time/sync"):
        told = push_weights(parts.engine, policy.weight_buckets(), names=policy.parameter_names, version=policy.version)
    with clock("time/canary"):
        if every and policy.version // parts.run.config.algorithm.minibatches % every == 0:
            parts.canary.check()
    return told


def _log(parts: Parts, step: int, batch: Batch, seen: list[Seen], more: dict[str, float]) -> dict[str, float]:
    """Writes the step's metrics and rollouts. RuntimeError where too many rollouts could not be scored."""
    run = parts.run
    by_minibatch = [numbered(each, number) for number, each in enumerate(seen, start=1)]
    everything = combine(
        run.ranks.gather(combine([summarise(batch.sampled), refilled(batch), *(each.totals for each in by_minibatch)]))
    )
    counts = add_histograms(run.ranks.gather(add_histograms(each.histograms for each in by_minibatch)))
    metrics = means(everything) | ratio_quantiles(counts)
    rewards = [value for name, value in metrics.items() if name.startswith("reward/")]
    metrics["reward/mean"] = sum(rewards) / len(rewards) if rewards else 0.0
    metrics |= {"policy/lr": parts.policy.lr, **more}
    gathered = run.ranks.gather([without_routes(group) for group in batch.sampled])
    traced = list(chain.from_iterable(run.ranks.gather(_token_lines(run, batch.groups, seen))))
    if parts.log:
        parts.log.step(step, metrics)
        parts.log.histograms(step, counts)
        parts.log.tokens(step, traced)
        parts.log.rollouts(step, sorted(chain.from_iterable(gathered), key=attrgetter("prompt.slot", "prompt.round")))
    if called := _watch(parts, step, metrics):
        told = f"step {step}: {'; '.join(called)}"
        if run.config.on_collapse == "stop":
            raise RuntimeError(
                f"{told}. Stopped, as on_collapse asks; what was saved before is in {run.config.folder}/checkpoints"
            )
        if run.ranks.is_first:
            logger.warning("%s", told)
    for sentence in parts.gradients.see(step, metrics):
        if run.ranks.is_first:
            logger.warning("%s", sentence)
    parts.unscored.see(batch.sampled, run.ranks, most=run.config.scoring.max_failed_share, where=f"step {step}")
    return metrics


def _start(run: Run, stack: ExitStack) -> Parts:
    """Starts every part, the cold start first; the stack closes them."""
    config, ranks = run.config, run.ranks
    config.folder.mkdir(parents=True, exist_ok=True)
    model = config.model
    if config.coldstart.steps:
        model = str(config.folder / "coldstart")
        coldstart(run, Path(model))
    shared: dict[str, Any] = {"ranks": ranks, "temperature": config.sampling.temperature, "banned": run.banned}
    updates = config.steps * config.algorithm.minibatches
    policy = Policy(config.policy, model, updates=updates, **shared)
    reference = Reference(config.policy, model, **shared) if config.algorithm.kl_coefficient else None
    engine = start_engine(run, model)
    return Parts(
        run=run,
        mixture=run.mixture(),
        policy=policy,
        engine=engine,
        canary=Canary(
            policy,
            engine,
            run.encoder,
            temperature=config.sampling.temperature,
            tolerance=config.engine.canary_tolerance,
            folder=config.folder,
        ),
        scorer=stack.enter_context(start_scorer(config)),
        stop=stack.enter_context(closing(StopSignal())),
        gates=TaskGates(config.algorithm, config.mixture),
        log=stack.enter_context(closing(_open_log(config))) if ranks.is_first else None,
        reference=reference,
    )


def _open_log(config: Config) -> RunLog:
    return RunLog(config.folder, name=config.name, config=config.model_dump(mode="json"), wandb=config.wandb)


def _resume(parts: Parts) -> int:
    """The step to go on from: 0, or that of the newest good checkpoint, loaded into policy and engine. Cuts the logs to it."""
    run, config = parts.run, parts.run.config
    found = checkpoints.newest_good(
        config.folder / "checkpoints", rank=run.ranks.rank, world_size=run.ranks.size, agree=run.ranks.min
    )
    if found:
        checkpoints.check_same_config(found.state, run.identity, step=found.step)
        parts.policy.load(found.path)
        parts.policy.tokens_per_pass = found.state["tokens_per_pass"]  # in other passes its last bits would be others
        parts.saved.add(found.step)
        push_weights(
            parts.engine, parts.policy.weight_buckets(), names=parts.policy.parameter_names, version=parts.policy.version
        )
        parts.canary.check()
    else:
        parts.engine.sleep()
        groups = config.prompts_per_step // config.algorithm.minibatches
        fit_passes(run, parts.policy, partial(_samples, parts), groups=-(-groups // run.ranks.size))
        parts.engine.wake()
    step = found.step if found else 0
    if parts.log:
        if found:
            print(f"{config.folder} goes on after step {step}", flush=True)
        parts.log.truncate(step)
        (config.folder / "summary.json").unlink(missing_ok=True)  # it stands for a run that came to its end as config.yaml says
        write_whole(config.folder / "config.yaml", [dump_config(config)])
    for line in run.ranks.gather(parts.log.metrics() if parts.log else [])[0]:
        _watch(parts, line["step"], line)
        parts.gradients.see(line["step"], line)
    return step


def _samples(parts: Parts) -> list[Sample]:
    """What the first step's passes would be made of, were all responses as long as they may be."""
    prompts = parts.run.prompts(parts.mixture.draw(0)[:_SAMPLES])
    encoded = encode_prompts(prompts, parts.run.encoder, parts.run.config.engine.max_model_len)
    return [
        Sample(prompt=encoded[prompt.slot], group_size=prompt.group_size, max_new_tokens=prompt.max_new_tokens)
        for prompt in prompts
        if prompt.slot in encoded
    ]


def _watch(parts: Parts, step: int, metrics: Mapping[str, float]) -> list[str]:
    """What the collapse watch calls at this step; the newest checkpoint from before is then kept for good."""
    called = parts.watch.see(metrics)
    if called and (newest := checkpoints.newest_before(parts.run.config.folder / "checkpoints", step - 1)) is not None:
        parts.protected.add(newest)
    return called


def _save(parts: Parts, step: int, *, wait: bool) -> None:
    """Saves the state after `step` steps, unless it is there already or the time that a signal left is over.

    wait: until it is sealed; else that goes on beside the next step.
    """
    run, settings = parts.run, parts.run.config.checkpoints
    root = run.config.folder / "checkpoints"
    too_late = run.ranks.any(parts.stop.grace_over(settings.signal_grace_s))
    if not too_late and step not in parts.saved:
        parts.finish_save()
        parts.finish_save = checkpoints.begin(
            root,
            step,
            parts.policy.save,
            run.identity | {"tokens_per_pass": parts.policy.tokens_per_pass},
            keep=settings.keep,
            protected=parts.protected,
            rank=run.ranks.rank,
            agree=run.ranks.min,
        )
        parts.saved.add(step)
    if wait:
        parts.finish_save()


def _evaluated_before(parts: Parts, first: int) -> dict[str, Assessment]:
    """Each task's evaluation before the first step: measured once, then kept beside the run.

    ValueError where a run that goes on after `first` steps has lost it: that model is gone.
    """
    run, path = parts.run, parts.run.config.folder / "evaluated_before.json"
    of = {"origin": run.origin, "evaluation": run.config.evaluation.model_dump(exclude={"every", "also"})}
    kept = run.ranks.gather(json.loads(path.read_text()) if run.ranks.is_first and path.exists() else None)[0]
    if first and not kept:
        raise ValueError(f"{path} is missing: what the run began with can't be measured again; put it back, or start a new run")
    if kept and (first or kept["of"] == of):
        return TypeAdapter(dict[str, Assessment]).validate_python(kept["tasks"])
    before = evaluate(run, parts.engine, parts.scorer, "before")
    if parts.log:
        write_whole(path, [json.dumps({"of": of, "tasks": {task: asdict(each) for task, each in before.items()}})])
    return before


def _evaluated_between(parts: Parts, step: int) -> dict[str, float]:
    """Metrics of the evaluation after this step, where the run file asks for it."""
    config = parts.run.config
    if not _is_due(config.evaluation.every, step) or step == config.steps:
        return {}
    return evaluation_metrics(evaluate(parts.run, parts.engine, parts.scorer, f"step {step}"))


def _finished(config: Config) -> dict[str, Any] | None:
    """The summary of a run that has already come to its end under these very settings."""
    kept, summary = config.folder / "config.yaml", config.folder / "summary.json"
    done = summary.exists() and kept.exists() and kept.read_text() == dump_config(config)
    return json.loads(summary.read_text()) if done else None


def _finish(parts: Parts, before: dict[str, Assessment]) -> dict[str, Any]:
    """Saves and exports the trained model, evaluates it, and writes the summary."""
    run, config = parts.run, parts.run.config
    _save(parts, config.steps, wait=True)
    after = evaluate(run, parts.engine, parts.scorer, "after")
    summary = {"steps": config.steps, **before_and_after(before, after)}
    parts.policy.export(config.folder / "model", config.model, run.encoder.processor)
    if parts.log:
        parts.log.summary(summary)
    return summary

"""The training loop: draw a batch at the mixture's ratios, sample, score, update in mini-batches, hand the weights back.

One synchronous loop; everything it calls is a part of its own. A run resumes from its newest good checkpoint by itself, and
equals the uninterrupted one: what a step draws and samples is a pure function of (seed, step) and the weights.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from vlrl.algorithm.diagnostics import add_histograms, combine, means, ratio_quantiles
from vlrl.coldstart import coldstart
from vlrl.common.jsonl import write_atomically
from vlrl.common.signals import Interrupted, Stopped, StopSignal
from vlrl.config import Config, dump_config
from vlrl.evaluation.evaluate import EvalResult, before_and_after, evaluate, evaluation_metrics
from vlrl.rollout.batch import Batch, refilled, sample_batch
from vlrl.rollout.canary import Canary
from vlrl.rollout.groups import summarise, without_routes
from vlrl.rollout.start import start_engine
from vlrl.rollout.weight_sync import push_weights
from vlrl.run import Run
from vlrl.scoring.start import start_scorer
from vlrl.telemetry.clock import Clock
from vlrl.telemetry.progress import announce, progress
from vlrl.telemetry.run_log import RunLog
from vlrl.telemetry.wandb_tracker import WandbTracker
from vlrl.trainer.policy import Policy, Reference
from vlrl.trainer.resume import Parts, act_on_collapse, resume, save
from vlrl.trainer.update import TaskGates, UpdateStats, make_minibatch, numbered, old_logprobs, update
from vlrl.types import Group

logger = logging.getLogger(__name__)


def train(run: Run) -> dict[str, Any]:
    """Trains to config.steps and returns the summary. Raises Interrupted where a signal stopped it first, its state saved."""
    config = run.config
    if finished := _finished(config):
        return finished
    with ExitStack() as stack:
        parts = _start(run, stack)
        step = resume(parts)
        before = _evaluated_before(parts, step)
        outside = Clock()
        with progress("Training", config.steps, done=step, shown=run.ranks.is_first) as tick:
            while step < config.steps:
                clock = Clock(run.ranks.synchronize)
                with clock("time/step"):
                    batch = _sample(parts, step, clock)
                    if batch is None:
                        save(parts, step, wait=True)
                        raise _interrupted(parts)
                    seen = _update(parts, batch, clock)
                    handed = _hand_over(parts, clock)
                step += 1
                evaluated = _evaluated_between(parts, step)
                told = evaluated | clock.seconds | outside.seconds | batch.metrics | handed
                outside = Clock()  # what comes after a step is told with the next one's pieces
                with outside("time/save"):
                    parts.finish_save()
                with outside("time/log"):
                    metrics = _log(parts, step, batch, seen, told)
                tick(1, _note(metrics))
                if (kept := act_on_collapse(parts, step, metrics)) < step:
                    tick(kept - step)
                    step = kept
                    continue
                stopped = run.ranks.any(parts.stop.requested)
                if stopped or _is_due(config.checkpoints.every, step):
                    with outside("time/save"):
                        save(parts, step, wait=stopped)
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
    return sample_batch(parts.in_force, parts.mixture, parts.engine, parts.scorer, step, clock=clock, stop=parts.stop)


def _update(parts: Parts, batch: Batch, clock: Clock) -> list[UpdateStats]:
    """The step's optimizer steps, one per mini-batch; π_old is the policy before the first. Returns what each saw."""
    settings, run = parts.in_force.config.algorithm, parts.run
    parts.engine.sleep()
    with clock("time/pack"):
        minibatches = [
            make_minibatch(
                [group for group in batch.groups if group.prompt.minibatch == number],
                batch.encoded,
                filler=run.filler,
                budget=parts.policy.max_tokens_per_micro_batch,
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
            reference=parts.reference if settings.kl_coefficient else None,
            traced=_traced(batch.groups, settings.minibatches),
            clock=clock,
        )
        for minibatch, old_logp in zip(minibatches, old, strict=True)
    ]


def _traced(groups: list[Group], minibatches: int) -> set[int]:
    """The first slot of each task with a gradient in the last mini-batch, which is the furthest from π_old."""
    learnt = [group.prompt for group in groups if group.prompt.minibatch == minibatches - 1 and any(group.advantages)]
    return set({prompt.task: prompt.slot for prompt in reversed(learnt)}.values())


def _token_lines(run: Run, groups: list[Group], seen: list[UpdateStats]) -> list[dict[str, Any]]:
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


def _log(parts: Parts, step: int, batch: Batch, seen: list[UpdateStats], more: dict[str, float]) -> dict[str, float]:
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
    if run.config.on_collapse == "rollback":
        metrics["rollback/number"] = len(parts.rollbacks)
    metrics |= {"policy/lr": parts.policy.lr, **more}
    gathered = run.ranks.gather([without_routes(group) for group in batch.sampled])
    traced = list(chain.from_iterable(run.ranks.gather(_token_lines(run, batch.groups, seen))))
    if parts.log:
        parts.log.step(step, metrics)
        parts.log.histograms(step, counts)
        parts.log.tokens(step, traced)
        parts.log.rollouts(step, sorted(chain.from_iterable(gathered), key=attrgetter("prompt.slot", "prompt.round")))
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
    say = partial(announce, shown=ranks.is_first)
    say("Loading the model")
    shared: dict[str, Any] = {"ranks": ranks, "temperature": config.sampling.temperature, "banned": run.banned}
    updates = config.steps * config.algorithm.minibatches
    policy = Policy(config.policy, model, updates=updates, **shared)
    # One that a rollback may need is there from the start, while it is found which passes fit beside it.
    has_kl = config.algorithm.kl_coefficient or config.rollback.kl_coefficient
    reference = Reference(config.policy, model, **shared) if has_kl else None
    say("Starting vLLM")
    engine = start_engine(run, model)
    say("Starting the verifiers")
    return Parts(
        run=run,
        in_force=run,
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
    wandb = WandbTracker(config.wandb, config.folder, name=config.name, config=config.model_dump(mode="json"))
    return RunLog(config.folder, [wandb])


def _evaluated_before(parts: Parts, first: int) -> dict[str, EvalResult]:
    """Each task's evaluation before the first step: measured once, then kept beside the run.

    ValueError where a run that goes on after `first` steps has lost it: that model is gone.
    """
    run, path = parts.run, parts.run.config.folder / "evaluated_before.json"
    of = {"origin": run.origin, "evaluation": run.config.evaluation.model_dump(exclude={"every", "presets"})}
    kept = run.ranks.gather(json.loads(path.read_text()) if run.ranks.is_first and path.exists() else None)[0]
    if first and not kept:
        raise ValueError(f"{path} is missing: what the run began with can't be measured again; put it back, or start a new run")
    if kept and (first or kept["of"] == of):
        return TypeAdapter(dict[str, EvalResult]).validate_python(kept["tasks"])
    try:
        before = evaluate(run, parts.engine, parts.scorer, "before", parts.stop)
    except Stopped:
        raise Interrupted(parts.stop.number, "the same command begins again with the evaluation before the first step") from None
    if parts.log:
        write_atomically(path, [json.dumps({"of": of, "tasks": {task: asdict(each) for task, each in before.items()}})])
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


def _finish(parts: Parts, before: dict[str, EvalResult]) -> dict[str, Any]:
    """Saves and exports the trained model, evaluates it, and writes the summary."""
    run, config = parts.run, parts.run.config
    save(parts, config.steps, wait=True)
    try:
        after = evaluate(run, parts.engine, parts.scorer, "after", parts.stop)
    except Stopped:
        raise _interrupted(parts) from None
    summary = {"steps": config.steps, **before_and_after(before, after)}
    if config.on_collapse == "rollback":
        summary["rollbacks"] = [asdict(each) for each in parts.rollbacks]
    announce("Writing the model", shown=run.ranks.is_first)
    parts.policy.export(config.folder / "model", config.model, run.encoder.processor)
    if parts.log:
        parts.log.summary(summary)
    return summary

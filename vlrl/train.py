"""The training loop: draw a batch at the mixture's ratios, sample, score, update in mini-batches, sync the weights.

One synchronous loop; everything it calls is a part of its own. A run resumes from its newest good checkpoint by itself, and
equals the uninterrupted one: what a step draws and samples is a pure function of (seed, step) and the weights.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from operator import itemgetter
from typing import Any

from pydantic import TypeAdapter

from vlrl.algorithm.diagnostics import Histograms, add_histograms, ratio_quantiles
from vlrl.coldstart import coldstart
from vlrl.common.jsonl import read_json, with_advice, write_atomically
from vlrl.common.signals import Interrupted, Stopped
from vlrl.config import Config
from vlrl.evaluation.evaluate import before_and_after, evaluate, evaluation_metrics
from vlrl.rollout.batch import Batch, refilled
from vlrl.rollout.groups import summarise
from vlrl.run import Run
from vlrl.run_file import dump_config
from vlrl.stats import EvalResult
from vlrl.telemetry.clock import Clock
from vlrl.telemetry.made_with import write_made_with
from vlrl.telemetry.metrics import Key, Metrics, combine, step_metrics, to_metrics
from vlrl.telemetry.progress import announce, progress
from vlrl.telemetry.run_log import rollout_lines
from vlrl.trainer.trainer import Trainer
from vlrl.trainer.update import UpdateStats, numbered
from vlrl.types import Group


def train(run: Run) -> dict[str, Any]:
    """Trains to config.steps and returns the summary. Raises Interrupted if a signal stopped it first, its state saved."""
    config = run.config
    if finished := _finished(config):
        return finished
    with ExitStack() as stack:
        trainer = Trainer.start(run, _starting_model(run), stack)
        step = trainer.resume()
        before = _evaluate_before(trainer, step)
        outside = Clock()
        with progress("Training", config.steps, done=step, shown=run.ranks.is_first) as tick:
            while step < config.steps:
                clock = Clock(run.ranks.synchronize)
                with clock("time/step"):
                    batch = trainer.sample(step, clock)
                    if batch is None:
                        trainer.save(step, wait=True)
                        raise trainer.interrupted()
                    updates = trainer.update(batch, clock)
                    synced = trainer.sync_weights(clock)
                step += 1
                evaluated = _evaluate_between(trainer, step)
                more = step_metrics(clock.seconds | outside.seconds | synced) | batch.metrics
                outside = Clock()  # the seconds after a step are logged with the next one
                with outside("time/save"):
                    trainer.checkpointing.finish()
                with outside("time/log"):
                    metrics, counts = _reduce(trainer, batch, updates)
                    metrics |= evaluated | more
                    write_step(trainer, step, metrics, counts, batch, updates)
                    trainer.warn_without_gradient(step, metrics)
                    trainer.stop_if_unscored(step, batch)
                tick(1, _note(metrics))
                if (earlier := trainer.act_on_collapse(step, metrics)) < step:
                    tick(earlier - step)
                    step = earlier
                    continue
                stopped = run.ranks.any(trainer.stop.requested)
                if stopped or _is_due(config.checkpoints.every, step):
                    with outside("time/save"):
                        trainer.save(step, wait=stopped)
                if stopped:
                    raise trainer.interrupted()
        return _finish(trainer, before)


def _starting_model(run: Run) -> str:
    """The model from which the run samples first: config.model, or the result of its cold start."""
    folder = run.config.folder
    folder.mkdir(parents=True, exist_ok=True)
    if not run.config.coldstart.steps:
        return run.config.model
    coldstart(run, folder / "coldstart")
    return str(folder / "coldstart")


def _is_due(every: int, step: int) -> bool:
    return bool(every) and step % every == 0


def _reduce(trainer: Trainer, batch: Batch, updates: Sequence[UpdateStats]) -> tuple[Metrics, Histograms]:
    """The step's metrics and histograms over all ranks."""
    ranks = trainer.run.ranks
    by_minibatch = [numbered(each, number) for number, each in enumerate(updates, start=1)]
    totals = combine([summarise(batch.sampled), refilled(batch), *(each.totals for each in by_minibatch)])
    counts = add_histograms(ranks.gather(add_histograms(each.histograms for each in by_minibatch)))
    metrics = to_metrics(combine(ranks.gather(totals))) | ratio_quantiles(counts)
    rewards = [value for key, value in metrics.items() if key.name == "reward"]
    metrics[Key("reward/mean")] = sum(rewards) / len(rewards) if rewards else 0.0
    if trainer.run.config.on_collapse == "rollback":
        metrics[Key("rollback/number")] = len(trainer.rollbacks)
    return metrics | {Key("policy/lr"): trainer.policy.lr}, counts


def write_step(
    trainer: Trainer,
    step: int,
    metrics: Metrics,
    counts: Histograms,
    batch: Batch,
    updates: Sequence[UpdateStats],
) -> None:
    """Logs the step: its metrics, histograms, rollouts, and a few responses token by token.

    Each rank makes its lines, and the first one writes them all: they need neither the tokens nor their log-probs.
    """
    run, log = trainer.run, trainer.log
    lines = [line for group in batch.sampled for line in rollout_lines(step, group)]
    gathered = run.ranks.gather_on_first((lines, _token_lines(run, batch.groups, updates)))
    if log:
        rollouts, tokens = (list(chain.from_iterable(each)) for each in zip(*gathered, strict=True))
        log.step(step, metrics)
        log.histograms(step, counts)
        log.tokens(step, tokens)
        log.rollouts(step, sorted(rollouts, key=itemgetter("slot", "round", "sample")))


def _token_lines(run: Run, groups: Sequence[Group], updates: Sequence[UpdateStats]) -> list[dict[str, Any]]:
    """The traced responses, with each token as text."""
    rollouts = [sample.rollout for group in groups for sample in group.samples]
    tokens = {(rollout.slot, rollout.sample): rollout.tokens for rollout in rollouts}
    return [
        asdict(trace) | {"pieces": run.encoder.pieces(tokens[trace.slot, trace.sample][: len(trace.ratios)])}
        for each in updates
        for trace in each.traces
    ]


def _note(metrics: Metrics) -> str:
    """The mean reward, and the task with the largest share of rollouts that have no score."""
    failed = {key.task: share for key, share in metrics.items() if key.name == "scoring/failed" and key.task and share}
    worst = max(failed, key=failed.__getitem__, default="")
    without = f", {failed[worst]:.0%} of {worst} without a verdict" if worst else ""
    return f"reward {metrics[Key('reward/mean')]:.3f}{without}"


def _evaluate_before(trainer: Trainer, first: int) -> dict[str, EvalResult]:
    """Each task's evaluation before the first step: measured once, then kept in the run's folder.

    ValueError if the file is damaged, or a run that continues after `first` steps has lost it: that model is gone.
    """
    run, path = trainer.run, trainer.run.config.folder / "evaluated_before.json"
    of = {"origin": run.origin, "evaluation": run.config.evaluation.model_dump(exclude={"every", "presets"})}
    remedy = "what the run began with can't be measured again; put it back, or start a new run"
    kept = run.ranks.broadcast(read_json(path, remedy) if run.ranks.is_first and path.exists() else None)
    if first and not kept:
        raise ValueError(f"{path} is missing: {remedy}")
    if kept and (first or kept["of"] == of):
        return TypeAdapter(dict[str, EvalResult]).validate_python(kept["tasks"])
    try:
        before = evaluate(run, trainer.engine, trainer.scorer, "before", trainer.stop)
    except Stopped:
        raise Interrupted(
            trainer.stop.number, "the same command begins again with the evaluation before the first step"
        ) from None
    if trainer.log:
        write_atomically(path, [json.dumps({"of": of, "tasks": {task: asdict(each) for task, each in before.items()}})])
    return before


def _evaluate_between(trainer: Trainer, step: int) -> Metrics:
    """Metrics of the evaluation after this step, if one is due."""
    config = trainer.run.config
    if not _is_due(config.evaluation.every, step) or step == config.steps:
        return {}
    return evaluation_metrics(evaluate(trainer.run, trainer.engine, trainer.scorer, f"step {step}"))


def _finished(config: Config) -> dict[str, Any] | None:
    """The summary of a run that has already ended under these very settings and still has its model."""
    kept, summary, model = (config.folder / name for name in ("config.yaml", "summary.json", "model"))
    if not (summary.exists() and model.exists() and kept.exists() and kept.read_text() == dump_config(config)):
        return None
    return read_json(summary, "remove it, and the same command writes it again")


def _finish(trainer: Trainer, before: dict[str, EvalResult]) -> dict[str, Any]:
    """Saves and exports the trained model, evaluates it, and writes the summary."""
    run, config = trainer.run, trainer.run.config
    trainer.save(config.steps, wait=True)
    if trainer.log:
        write_made_with(config.folder, model=config.model, ranks=run.ranks.size)
    announce("Writing the model", shown=run.ranks.is_first)
    with with_advice(config.folder / "model"):
        if config.lora:
            trainer.policy.export_adapter(config.folder / "adapter")
        trainer.policy.export(config.folder / "model", config.model, run.encoder)
    try:
        after = evaluate(run, trainer.engine, trainer.scorer, "after", trainer.stop)
    except Stopped:
        raise trainer.interrupted() from None
    summary = {"steps": config.steps, **before_and_after(before, after)}
    if config.on_collapse == "rollback":
        summary["rollbacks"] = [asdict(each) for each in trainer.rollbacks]
    if trainer.log:
        trainer.log.summary(summary)
    return summary

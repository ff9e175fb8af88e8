"""Evaluation: avg@k and pass@k of each task on held-out rows, scored by the run's own verifiers, with 95 % intervals.

avg@k is the mean reward of k samples. pass@k is the chance that at least one of k samples is right; a sample is right if its
reward is at least one half.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from vlrl.common.signals import StopSignal
from vlrl.evaluation.records import evaluations, write_summary
from vlrl.evaluation.sampling import check_measurements, measure, sample_rows
from vlrl.rollout.engine import Engine
from vlrl.rollout.start import start_engine
from vlrl.run import Run
from vlrl.scoring import Scorer
from vlrl.scoring.start import start_scorer
from vlrl.stats import EvalResult, eval_result
from vlrl.telemetry.metrics import Key, Metrics
from vlrl.telemetry.progress import announce, progress
from vlrl.types import Draw

_ROUND = 0x45  # keeps an evaluation's sampling seeds apart from the training steps'


def evaluate(run: Run, engine: Engine, scorer: Scorer, label: str, stop: StopSignal | None = None) -> dict[str, EvalResult]:
    """Evaluates each task's held-out rows with the weights that the engine holds. All ranks call it and get the result.

    Empty if no task names held-out rows. Raises RuntimeError if more of a task's rollouts have no verdict than the run file
    allows, and Stopped if `stop` is requested.
    """
    measured = evaluations(run, run.config.folder)[""]
    if not measured:
        return {}
    run = run.with_rows({each.task: each.dataset for each in measured})
    places = [(each, index) for each in measured for index in range(each.num_rows)]
    draws = [Draw(slot=slot, task=each.task, index=index, minibatch=0) for slot, (each, index) in enumerate(places)]
    prompts = [
        run.prompt(draw, each.settings.samples, each.settings.max_new_tokens)
        for draw, (each, _) in zip(draws, places, strict=True)
    ]
    with progress(f"Evaluating {label}", sum(prompt.group_size for prompt in prompts), shown=run.ranks.is_first) as tick:
        where, settings = f"evaluation {label}", run.config.evaluation
        found = sample_rows(run, prompts, engine, scorer, settings=settings, seed_round=_ROUND, where=where, tick=tick, stop=stop)
    rows = {each.task: [found[draw.slot] for draw in draws if draw.task == each.task] for each in measured}
    return {each.task: eval_result(rows[each.task], each.settings.samples) for each in measured}


def run_evaluation(run: Run, out: Path) -> dict[str, dict[str, EvalResult]]:
    """Evaluates config.model on each task that names eval_rows, and returns the results by preset and task. All ranks call it.

    OUT gets every row's rewards and a summary; OUT/PRESET gets the same for each preset in evaluation.presets. A stopped
    evaluation resumes from the rows that it has. Raises ValueError if no task names eval_rows, or if OUT holds an evaluation with
    other settings.
    """
    measurements = evaluations(run, out)
    if not measurements[""]:
        raise ValueError("no task of the mixture names eval_rows, so there is nothing to evaluate; add eval_rows to the run file")
    check_measurements(run, [each for of_preset in measurements.values() for each in of_preset])
    announce("Starting vLLM", shown=run.ranks.is_first)
    engine = start_engine(run, run.config.model)
    found: dict[str, dict[str, EvalResult]] = {}
    with start_scorer(run.config) as scorer:
        for name, of_preset in measurements.items():
            found[name] = {
                each.task: eval_result(measure(run, each, engine, scorer), each.settings.samples) for each in of_preset
            }
            if run.ranks.is_first:
                write_summary(out / name, run.config.model, found[name])
    return found


def mean_accuracy(results: Mapping[str, EvalResult]) -> float:
    """The mean of the tasks' averages, with equal weight. There must be at least one task."""
    return fmean(each.average.mean for each in results.values())


def evaluation_metrics(results: Mapping[str, EvalResult]) -> Metrics:
    """eval/TASK and eval/mean, eval/pass@K/TASK of every K above 1, and eval/failed/TASK, the rollouts without a verdict."""
    failed = {Key("eval/failed", task): float(each.failed) for task, each in results.items()}
    averages = {Key("eval", task): each.average.mean for task, each in results.items()}
    passes = {Key(f"eval/pass@{k}", task): one.mean for task, each in results.items() for k, one in each.passes.items() if k > 1}
    return averages | passes | failed | ({Key("eval/mean"): mean_accuracy(results)} if results else {})


def before_and_after(before: Mapping[str, EvalResult], after: Mapping[str, EvalResult]) -> dict[str, Any]:
    """A run's summary: each task's accuracy before and after with intervals and rollouts without a verdict, and the means.

    The mean is None if no task was evaluated.
    """
    return {
        "tasks": {
            task: {
                "before": before[task].average.mean,
                "after": after[task].average.mean,
                "before_interval": before[task].average.interval,
                "after_interval": after[task].average.interval,
                "pass_before": {str(k): one.mean for k, one in before[task].passes.items()},
                "pass_after": {str(k): one.mean for k, one in after[task].passes.items()},
                "rows": after[task].average.rows,
                "failed_before": before[task].failed,
                "failed_after": after[task].failed,
            }
            for task in after
        },
        "mean": {"before": mean_accuracy(before), "after": mean_accuracy(after)} if after else None,
    }

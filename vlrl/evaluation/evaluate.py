"""Evaluation: avg@k and pass@k of each task on held-out rows with 95 % intervals, by the run's own verifiers.

avg@k is the mean reward of k samples; pass@k, the chance that one of k is right, is taken of rewards of a half and more.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from vlrl.common.signals import StopSignal
from vlrl.evaluation.records import heldout_rows
from vlrl.evaluation.sampling import sample_rows
from vlrl.rollout.engine import Engine
from vlrl.run import Run
from vlrl.scoring import Scorer
from vlrl.stats import EvalResult, eval_result
from vlrl.telemetry.metrics import Key, Metrics
from vlrl.telemetry.progress import progress
from vlrl.types import Draw

_ROUND = 0x45  # keeps an evaluation's sampling seeds apart from the training steps'


def evaluate(run: Run, engine: Engine, scorer: Scorer, label: str, stop: StopSignal | None = None) -> dict[str, EvalResult]:
    """Each task's held-out rows under the weights that the engine holds. All ranks call it and get the result.

    RuntimeError where more of a task's rollouts have no verdict than the run file allows; Stopped where `stop` is requested.
    Empty where no task names held-out rows.
    """
    way, heldout = run.config.evaluation, heldout_rows(run)
    if not heldout:
        return {}
    run = run.with_rows(heldout)
    places = [(task, index) for task, rows in heldout.items() for index in range(min(way.rows, len(rows)))]
    draws = [Draw(slot=slot, task=task, index=index, minibatch=0) for slot, (task, index) in enumerate(places)]
    prompts = [run.prompt(draw, way.samples, way.max_new_tokens) for draw in draws]
    with progress(f"Evaluating {label}", len(prompts) * way.samples, shown=run.ranks.is_first) as tick:
        where = f"evaluation {label}"
        found = sample_rows(run, prompts, engine, scorer, way=way, seed_round=_ROUND, where=where, tick=tick, stop=stop)
    return {task: eval_result([found[draw.slot] for draw in draws if draw.task == task], way.samples) for task in heldout}


def mean_accuracy(results: Mapping[str, EvalResult]) -> float:
    """The tasks' averages, averaged with equal weight. There must be a task."""
    return fmean(each.average.mean for each in results.values())


def evaluation_metrics(results: Mapping[str, EvalResult]) -> Metrics:
    """eval/TASK and eval/mean, eval/pass@K/TASK of every K above 1, and eval/failed/TASK, the rollouts without a verdict."""
    failed = {Key("eval/failed", task): float(each.failed) for task, each in results.items()}
    averages = {Key("eval", task): each.average.mean for task, each in results.items()}
    passes = {Key(f"eval/pass@{k}", task): one.mean for task, each in results.items() for k, one in each.passes.items() if k > 1}
    return averages | passes | failed | ({Key("eval/mean"): mean_accuracy(results)} if results else {})


def before_and_after(before: Mapping[str, EvalResult], after: Mapping[str, EvalResult]) -> dict[str, Any]:
    """A run's summary: of each task both accuracies with their intervals and the rollouts without a verdict, and the means.

    The mean is None where no task was evaluated.
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

"""`vlrl eval`: a model on the held-out rows of a run file's tasks, sampled in each way that it names."""

from pathlib import Path

from vlrl.evaluation.records import evaluations, write_summary
from vlrl.evaluation.sampling import check_measurements, measure
from vlrl.rollout.start import start_engine
from vlrl.run import Run
from vlrl.scoring.start import start_scorer
from vlrl.stats import EvalResult, eval_result
from vlrl.telemetry.progress import announce


def run_evaluation(run: Run, out: Path) -> dict[str, dict[str, EvalResult]]:
    """By way and task: evaluates config.model on each task that names eval_rows. All ranks call it.

    OUT gets every row's rewards and a summary, OUT/PRESET those of each preset in evaluation.presets. A stopped evaluation
    continues from the rows that it has. ValueError where no task names held-out rows, or OUT holds another evaluation.
    """
    measurements = evaluations(run, out)
    if not measurements[""]:
        raise ValueError("no task of the mixture names eval_rows, so there is nothing to evaluate on; add them to the run file")
    check_measurements(run, [each for of_way in measurements.values() for each in of_way])
    announce("Starting vLLM", shown=run.ranks.is_first)
    engine = start_engine(run, run.config.model)
    found: dict[str, dict[str, EvalResult]] = {}
    with start_scorer(run.config) as scorer:
        for name, of_way in measurements.items():
            found[name] = {each.task: eval_result(measure(run, each, engine, scorer), each.way.samples) for each in of_way}
            if run.ranks.is_first:
                write_summary(out / name, run.config.model, found[name])
    return found

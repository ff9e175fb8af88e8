"""`vlrl eval`: evaluates a model on the held-out rows of a run file's tasks, with each of its sampling presets."""

from pathlib import Path

from vlrl.evaluation.records import evaluations, write_summary
from vlrl.evaluation.sampling import check_measurements, measure
from vlrl.rollout.start import start_engine
from vlrl.run import Run
from vlrl.scoring.start import start_scorer
from vlrl.stats import EvalResult, eval_result
from vlrl.telemetry.progress import announce


def run_evaluation(run: Run, out: Path) -> dict[str, dict[str, EvalResult]]:
    """Evaluates config.model on each task that names eval_rows, and returns the results by preset and task. All ranks call it.

    OUT gets every row's rewards and a summary; OUT/PRESET gets the same for each preset in evaluation.presets. A stopped
    evaluation resumes from the rows that it has. Raises ValueError if no task names eval_rows, or if OUT holds an evaluation with
    other settings.
    """
    measurements = evaluations(run, out)
    if not measurements[""]:
        raise ValueError("no task of the mixture names eval_rows, so there is nothing to evaluate; add eval_rows to the run file")
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

"""`vlrl eval`: a model on the held-out rows of a run file's tasks, sampled in each way that it names."""

from pathlib import Path

from vlrl.evaluation.records import evaluations, write_summary
from vlrl.evaluation.sampling import check_measurements, measure
from vlrl.rollout.start import start_engine
from vlrl.run import Run
from vlrl.scoring.start import start_scorer
from vlrl.stats import Assessment, assessed
from vlrl.telemetry.progress import announce


def assess(run: Run, out: Path) -> dict[str, dict[str, Assessment]]:
    """By way and task: evaluates config.model on each task that names eval_rows. All ranks call it.

    OUT has every row's rewards and a summary, and OUT/WAY those of each way in evaluation.also. One that was stopped goes on with
    what it has. ValueError where no task names held-out rows, or OUT holds another evaluation.
    """
    measurements = evaluations(run, out)
    if not measurements[""]:
        raise ValueError("no task of the mixture names eval_rows, so there is nothing to evaluate on; add them to the run file")
    check_measurements(run, [each for of_way in measurements.values() for each in of_way])
    announce("Starting vLLM", shown=run.ranks.is_first)
    engine = start_engine(run, run.config.model)
    found: dict[str, dict[str, Assessment]] = {}
    with start_scorer(run.config) as scorer:
        for name, of_way in measurements.items():
            found[name] = {each.task: assessed(measure(run, each, engine, scorer), each.way.samples) for each in of_way}
            if run.ranks.is_first:
                write_summary(out / name, run.config.model, found[name])
    return found

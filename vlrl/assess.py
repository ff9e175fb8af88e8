"""`vlrl eval`: a model on the held-out rows of a run file's tasks, sampled in each way that it names; and two such compared."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from vlrl.evaluate import Assessment, assessed, heldout_rows
from vlrl.intervals import Difference, difference
from vlrl.measure import RowRewards, measure
from vlrl.metrics import whole_lines, write_whole
from vlrl.rollout.scorer import start_scorer
from vlrl.rollout.start import start_engine
from vlrl.run import Run

SUMMARY = "evaluation.json"


def assess(run: Run, out: Path) -> dict[str, dict[str, Assessment]]:
    """By way and task: evaluates config.model on each task that names eval_rows. All ranks call it.

    OUT has every row's rewards and a summary, and OUT/WAY those of each way in evaluation.also. One that was stopped goes on with
    what it has. ValueError where no task names held-out rows.
    """
    config, heldout = run.config, heldout_rows(run)
    if not heldout:
        raise ValueError("no task of the mixture names eval_rows, so there is nothing to evaluate on")
    engine = start_engine(run, config.model)
    found: dict[str, dict[str, Assessment]] = {}
    with start_scorer(config) as scorer:
        for name, way in config.evaluation.ways().items():
            also = config.evaluation.also.get(name)
            found[name] = {}
            for task, rows in heldout.items():
                samples = (also and also.samples) or config.mixture[task].eval_samples or way.samples
                of_task = way.model_copy(update={"samples": samples})
                measured = measure(run, task, rows, engine, scorer, out / name / f"{task}.jsonl", way=of_task)
                found[name][task] = assessed(measured, samples)
            if run.ranks.is_first:
                told = {task: asdict(each) for task, each in found[name].items()}
                write_whole(out / name / SUMMARY, [json.dumps({"model": config.model, "tasks": told}, indent=2) + "\n"])
    return found


def compared(first: Path, second: Path) -> dict[str, Difference]:
    """Second minus first by task, row by row of the rows that both have; tasks that only one has are left out.

    ValueError where a folder holds no evaluation, or the two were made on other rows or samples.
    """
    before, after = _read(first), _read(second)
    differences = {}
    for task in before.keys() & after.keys():
        (of, mine), (other_of, theirs) = before[task], after[task]
        for key in ("data", "samples", "temperature", "top_p", "top_k", "max_new_tokens"):
            if of[key] != other_of[key]:
                raise ValueError(
                    f"task {task}: {key} was {of[key]} in {first}, {other_of[key]} in {second}; compare like with like"
                )
        both = sorted(mine.keys() & theirs.keys())
        differences[task] = difference([mine[row] for row in both], [theirs[row] for row in both])
    if not differences:
        raise ValueError(f"{first} and {second} have no task in common; each is to be the OUT of a vlrl eval")
    return {task: differences[task] for task in before if task in differences}


def fallen(differences: Mapping[str, Difference], standard_errors: float) -> list[str]:
    """The tasks that fell by more than so many standard errors."""
    return [task for task, found in differences.items() if found.standard_errors < -standard_errors]


def _read(folder: Path) -> dict[str, tuple[dict, dict[str, float]]]:
    """By task: what its rewards depend on, and each row's mean."""
    read = {}
    for path in sorted(folder.glob("*.jsonl")):
        of, *rows = whole_lines(path)
        means = [RowRewards(**row) for row in rows]
        read[path.stem] = (of, {row.row: row.mean for row in means if row.rewards})
    return read

"""`vlrl eval`: a model on the held-out rows of a run file's tasks, sampled in each way that it names; and two such compared."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlrl.evaluate import Assessment, assessed, heldout_rows
from vlrl.intervals import Difference, difference
from vlrl.measure import Measurement, RowRewards, check_measurements, measure
from vlrl.metrics import announce, whole_lines, write_whole
from vlrl.nearest import nearest_folder
from vlrl.rollout.scorer import start_scorer
from vlrl.rollout.start import start_engine
from vlrl.run import Run

SUMMARY = "evaluation.json"
_ALIKE = ("data", "task_file", "samples", "temperature", "top_p", "top_k", "max_new_tokens")


def assess(run: Run, out: Path) -> dict[str, dict[str, Assessment]]:
    """By way and task: evaluates config.model on each task that names eval_rows. All ranks call it.

    OUT has every row's rewards and a summary, and OUT/WAY those of each way in evaluation.also. One that was stopped goes on with
    what it has. ValueError where no task names held-out rows, or OUT holds another evaluation.
    """
    config, ways = run.config, run.config.evaluation.ways()
    measurements = {name: _measurements(run, name, out / name) for name in ways}
    if not measurements[""]:
        raise ValueError("no task of the mixture names eval_rows, so there is nothing to evaluate on; add them to the run file")
    check_measurements(run, [each for of_way in measurements.values() for each in of_way])
    announce("Starting vLLM", shown=run.ranks.is_first)
    engine = start_engine(run, config.model)
    found: dict[str, dict[str, Assessment]] = {}
    with start_scorer(config) as scorer:
        for name, of_way in measurements.items():
            found[name] = {each.task: assessed(measure(run, each, engine, scorer), each.way.samples) for each in of_way}
            if run.ranks.is_first:
                told = {task: asdict(each) for task, each in found[name].items()}
                write_whole(out / name / SUMMARY, [json.dumps({"model": config.model, "tasks": told}, indent=2) + "\n"])
    return found


def _measurements(run: Run, name: str, out: Path) -> list[Measurement]:
    """Those of one way to sample: every task's, with as many samples as it asks for itself."""
    evaluation, also = run.config.evaluation, run.config.evaluation.also.get(name)
    way = evaluation.ways()[name]
    found = []
    for task, rows in heldout_rows(run).items():
        samples = (also and also.samples) or run.config.mixture[task].eval_samples or way.samples
        of_task = way.model_copy(update={"samples": samples})
        found.append(Measurement(task=task, dataset=rows, way=of_task, path=out / f"{task}.jsonl"))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A task's evaluation as it was kept: what it depends on, each row's mean, and the rollouts without a verdict."""

    of: dict[str, Any]
    means: dict[str, float]
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Of a task: second minus first, and the rollouts of each that have no verdict and so no part in it."""

    difference: Difference
    failed: tuple[int, int]


def compared(first: Path, second: Path) -> dict[str, Comparison]:
    """By task, row by row of the rows that both have; tasks that only one has are left out.

    ValueError where a folder holds no evaluation, or the two were made on other rows, samples or verifiers.
    """
    before, after = _read(first), _read(second)
    found = {}
    for task in (task for task in before if task in after):
        mine, theirs = before[task], after[task]
        for key in _ALIKE:
            if mine.of.get(key) != theirs.of.get(key):
                raise ValueError(
                    f"task {task}: {key} was {mine.of.get(key)} in {first}, {theirs.of.get(key)} in {second}; "
                    "compare like with like"
                )
        both = sorted(mine.means.keys() & theirs.means.keys())
        change = difference([mine.means[row] for row in both], [theirs.means[row] for row in both])
        found[task] = Comparison(difference=change, failed=(mine.failed, theirs.failed))
    if not found:
        raise ValueError(
            f"no task is in both evaluations: {first} has {', '.join(before)}, {second} has {', '.join(after)}; "
            "evaluate the same tasks"
        )
    return found


def regressed(comparisons: Mapping[str, Comparison], standard_errors: float) -> list[str]:
    """The tasks that got worse by more than this many standard errors."""
    return [task for task, found in comparisons.items() if found.difference.standard_errors < -standard_errors]


def _read(folder: Path) -> dict[str, Kept]:
    """By task. ValueError where the folder holds no evaluation."""
    if not (folder / SUMMARY).exists():
        raise ValueError(_no_evaluation(folder))
    read = {}
    for path in sorted(folder.glob("*.jsonl")):
        of, *rows = whole_lines(path)
        rewards = [RowRewards(**row) for row in rows]
        means = {row.row: row.mean for row in rewards if row.rewards}
        read[path.stem] = Kept(of=of, means=means, failed=sum(row.failed for row in rewards))
    return read


def _no_evaluation(folder: Path) -> str:
    near = nearest_folder(folder, with_file=SUMMARY)
    if not folder.is_dir():
        return f"there is no folder {folder}; {near}Give the OUT of a vlrl eval"
    if (folder / "config.yaml").exists():
        return (
            f"{folder} is a run, not an evaluation; {near}Give the OUT of a vlrl eval of its model: "
            f"vlrl eval {folder}/config.yaml model={folder}/model --out {folder}/eval"
        )
    return f"{folder} holds no finished evaluation: it has no {SUMMARY}; {near}Give the OUT of a vlrl eval that came to its end"

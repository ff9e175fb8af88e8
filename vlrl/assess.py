"""`vlrl eval`: a model on the held-out rows of a run file's tasks, sampled several times; and two such evaluations compared.

avg@k is the mean reward of k samples; pass@k, the chance that one of k is right, is taken of rewards of a half and more.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vlrl.data.shards import Dataset
from vlrl.intervals import Difference, Estimate, difference, estimate, pass_at
from vlrl.measure import RowRewards, measure
from vlrl.metrics import whole_lines, write_whole
from vlrl.rollout.start import start_engine, start_scorer
from vlrl.run import Run

SUMMARY = "evaluation.json"
_RIGHT = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """Of a task: samples a row, avg@samples, pass@k for k = 1, 2, 4, ... and samples, and rollouts without a verdict."""

    samples: int
    average: Estimate
    passes: dict[int, Estimate]
    failed: int


def assess(run: Run, out: Path) -> dict[str, Assessment]:
    """Evaluates config.model on each task that names eval_rows; OUT has every row's rewards, and a summary. All ranks call it.

    One that was stopped goes on with what it has. ValueError where no task names any.
    """
    config = run.config
    heldout = {task: Dataset(mix.eval_rows) for task, mix in config.mixture.items() if mix.eval_rows}
    if not heldout:
        raise ValueError("no task of the mixture names eval_rows, so there is nothing to evaluate on")
    engine, found = start_engine(run, config.model), {}
    with start_scorer(config) as scorer:
        for task, rows in heldout.items():
            samples = config.mixture[task].eval_samples or config.evaluation.samples
            measured = measure(
                run,
                task,
                rows,
                engine,
                scorer,
                out / f"{task}.jsonl",
                samples=samples,
                temperature=config.evaluation.temperature,
                most_rows=config.evaluation.rows,
            )
            found[task] = summarised(measured, samples)
    if run.ranks.is_first:
        told = {task: asdict(assessment) for task, assessment in found.items()}
        write_whole(out / SUMMARY, [json.dumps({"model": config.model, "tasks": told}, indent=2) + "\n"])
    return found


def summarised(rows: list[RowRewards], samples: int) -> Assessment:
    """avg@k and pass@k over the rows that have a verdict; of pass@k, over those with k of them."""
    scored = [row for row in rows if row.rewards]
    ks = sorted({2**power for power in range(samples.bit_length()) if 2**power <= samples} | {samples})
    return Assessment(
        samples=samples,
        average=estimate([row.mean for row in scored]),
        passes={
            k: estimate(
                [pass_at(k, len(row.rewards), sum(r >= _RIGHT for r in row.rewards)) for row in rows if len(row.rewards) >= k]
            )
            for k in ks
        },
        failed=sum(row.failed for row in rows),
    )


def compared(first: Path, second: Path) -> dict[str, Difference]:
    """Second minus first by task, row by row of the rows that both have; tasks that only one has are left out.

    ValueError where a folder holds no evaluation, or the two were made on other rows or samples.
    """
    before, after = _read(first), _read(second)
    differences = {}
    for task in before.keys() & after.keys():
        (of, mine), (other_of, theirs) = before[task], after[task]
        for key in ("data", "samples", "temperature", "max_new_tokens"):
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

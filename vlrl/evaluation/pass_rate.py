"""Rows that a model can learn from: solved sometimes, by a sample of its own, and not nearly always.

Of rows whose samples all get one reward nothing is learnt, and they cost as much as the others. Qwen3-VL's RL data was made in
this way (arXiv 2511.21631, section on reasoning data). A row's pass rate is the mean reward of its scored samples.
"""

from pathlib import Path

from vlrl.config import EvaluationConfig
from vlrl.data.images import read_image_bytes
from vlrl.data.shards import Dataset, NewRow, write_dataset
from vlrl.evaluation.records import Measurement
from vlrl.evaluation.sampling import check_measurements, measure
from vlrl.rollout.start import start_engine
from vlrl.run import Run
from vlrl.scoring.start import start_scorer
from vlrl.telemetry.progress import announce
from vlrl.types import Row, RowRewards

RATES = "pass_rates.jsonl"


def filter_rows(run: Run, out: Path, *, samples: int, at_most: float) -> dict[str, list[RowRewards]]:
    """Writes OUT/TASK, the rows of each task's data set that are kept, and in it every row's rewards. Returns these by task.

    Rows are sampled as the run's first step would: its model, prompts, temperature and lengths. All ranks call it.
    ValueError where nothing of a task would be left.
    """
    temperature = run.config.sampling.temperature
    measurements = [
        Measurement(
            task=task,
            dataset=dataset,
            way=EvaluationConfig(rows=len(dataset), samples=samples, temperature=temperature),
            path=out / task / RATES,
        )
        for task, dataset in run.rows.items()
    ]
    check_measurements(run, measurements)
    announce("Starting vLLM", shown=run.ranks.is_first)
    engine = start_engine(run, run.config.model)
    with start_scorer(run.config) as scorer:
        rates = {each.task: measure(run, each, engine, scorer) for each in measurements}
    empty = [task for task in rates if all(verdict(row, at_most) != "kept" for row in rates[task])]
    for task in rates.keys() - set(empty):
        if run.ranks.is_first:
            _write_kept(run.rows[task], rates[task], out / task, at_most)
    if empty:
        raise ValueError(
            f"of {', '.join(empty)} no row is solved sometimes, and at most {at_most:.0%} of the time; {out} holds the rates: "
            "take rows of another difficulty, another model, or more samples"
        )
    return rates


def verdict(row: RowRewards, at_most: float) -> str:
    """ "kept", or why the row is dropped."""
    if not row.rewards:
        return "not scored"
    return "never solved" if row.mean <= 0 else "solved too often" if row.mean > at_most else "kept"


def _write_kept(dataset: Dataset, rates: list[RowRewards], folder: Path, at_most: float) -> None:
    manifest = dataset.manifest
    kept = (dataset[number] for number, row in enumerate(rates) if verdict(row, at_most) == "kept")
    write_dataset(
        folder,
        map(_new_row, kept),
        source=manifest.source,
        licence=manifest.licence,
        recipe=manifest.recipe,
        recipe_version=manifest.recipe_version,
        build=manifest.build,
        task=manifest.task,
    )


def _new_row(row: Row) -> NewRow:
    return NewRow(
        question=row.question,
        answer=row.answer,
        images=tuple(read_image_bytes(ref) for ref in row.images),
        meta=row.meta,
        response=row.response,
    )

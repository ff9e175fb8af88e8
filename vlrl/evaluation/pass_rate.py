"""Filters rows by pass rate: keeps the rows that the model itself solves sometimes but not nearly always.

If all samples of a row get the same reward, the model learns nothing from it, and it costs as much as any other row. Qwen3-VL's
RL data was filtered in this way (arXiv 2511.21631, section on reasoning data). A row's pass rate is the mean reward of its scored
samples.
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
    """Writes each task's kept rows and every row's rewards to OUT/TASK. Returns the rewards by task.

    It samples with the model, prompts, temperature and lengths of the run's first step. All ranks call it. Raises ValueError if
    no row of a task would be kept.
    """
    temperature = run.config.sampling.temperature
    measurements = [
        Measurement(
            task=task,
            dataset=dataset,
            settings=EvaluationConfig(rows=len(dataset), samples=samples, temperature=temperature),
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
            f"{', '.join(empty)}: no row has a pass rate above 0 and at most {at_most:.0%}; the rates are in {out}. "
            "Use easier or harder rows, another model, or more samples"
        )
    return rates


def verdict(row: RowRewards, at_most: float) -> str:
    """ "kept", or the reason for dropping the row."""
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

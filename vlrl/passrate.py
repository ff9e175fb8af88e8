"""Rows that a model can learn from: solved sometimes, by a sample of its own, and not nearly always.

Of rows whose samples all get one reward nothing is learnt, and they cost as much as the others. Qwen3-VL's RL data was made in
this way (arXiv 2511.21631, section on reasoning data). A row's pass rate is the mean reward of its scored samples.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from vlrl.data.images import read_image_bytes
from vlrl.data.shards import Dataset, NewRow, write_dataset
from vlrl.metrics import progress
from vlrl.rollout.engine import Engine, sampling_seed
from vlrl.rollout.groups import check_scored, encode_prompts, sample_groups
from vlrl.rollout.start import start_engine, start_scorer
from vlrl.run import Run
from vlrl.scoring import Scorer
from vlrl.types import Draw, Group, Row, Status

RATES = "pass_rates.jsonl"
_ROUND = 0x46  # keeps these sampling seeds apart from the training steps' and the evaluations'
_ROWS_AT_A_TIME = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class PassRate:
    """Of a row by its key: samples, those that got a verdict, their mean reward (0 without any)."""

    row: str
    samples: int
    scored: int
    rate: float

    def verdict(self, at_most: float) -> str:
        """ "kept", or why the row is dropped."""
        if not self.scored:
            return "not scored"
        return "never solved" if self.rate <= 0 else "solved too often" if self.rate > at_most else "kept"


def filter_rows(run: Run, out: Path, *, samples: int, at_most: float) -> dict[str, list[PassRate]]:
    """Writes OUT/TASK, the rows of each task's data set that are kept, and in it every row's pass rate. Returns these by task.

    Rows are sampled as the run's first step would: its model, prompts, temperature and lengths. A filtering that was stopped
    goes on with the rates that it has. All ranks call it; each samples a share of the rows.
    ValueError where nothing of a task would be left.
    """
    rates: dict[str, list[PassRate]] = {}
    engine = start_engine(run, run.config.model)
    with start_scorer(run.config) as scorer:
        for task, dataset in run.rows.items():
            rates[task] = _measured(run, task, dataset, engine, scorer, out / task / RATES, samples)
    empty = [task for task in rates if all(rate.verdict(at_most) != "kept" for rate in rates[task])]
    for task in rates.keys() - set(empty):
        if run.ranks.is_first:
            _write_kept(run.rows[task], rates[task], out / task, at_most)
    if empty:
        raise ValueError(
            f"of {', '.join(empty)} no row is solved sometimes, and at most {at_most:.0%} of the time; {out} holds the rates: "
            "take rows of another difficulty, another model, or more samples"
        )
    return rates


def _measured(run: Run, task: str, dataset: Dataset, engine: Engine, scorer: Scorer, path: Path, samples: int) -> list[PassRate]:
    """The pass rate of every row, in the data set's order; those that the file at `path` has are not sampled again."""
    of = _origin(run, task, dataset, samples)
    kept = run.ranks.gather(_read(path, of) if run.ranks.is_first else None)[0]
    if run.ranks.is_first and not kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(of) + "\n")
    rates = [PassRate(**rate) for rate in kept]
    with progress(f"Sampling {task}", len(dataset) * samples, shown=run.ranks.is_first) as tick:
        tick(len(rates) * samples)
        for start in range(len(rates), len(dataset), _ROWS_AT_A_TIME):
            places = range(start, min(start + _ROWS_AT_A_TIME, len(dataset)))
            prompts = [run.prompt(Draw(slot=index, task=task, index=index, minibatch=0), samples) for index in places]
            sampled, owned = run.replica(prompts)
            groups = sample_groups(
                sampled,
                encode_prompts(sampled, run.encoder, run.config.engine.max_model_len),
                engine=engine,
                scorer=scorer,
                temperature=run.config.sampling.temperature,
                seed=lambda slot, sample: sampling_seed(run.config.seed, _ROUND, slot, sample),
                owned=owned,
                tick=lambda: tick(run.ranks.size),
            )
            check_scored(groups, run.ranks, most=run.config.scoring.max_failed_share, where=f"rows {places[0]} to {places[-1]}")
            found = {slot: rate for part in run.ranks.gather(dict(map(_rate, groups))) for slot, rate in part.items()}
            rates += [found[slot] for slot in places]
            if run.ranks.is_first:
                with path.open("a") as file:
                    file.writelines(json.dumps(asdict(found[slot])) + "\n" for slot in places)
    return rates


def _origin(run: Run, task: str, dataset: Dataset, samples: int) -> dict[str, Any]:
    """What the rates depend on: where it is another, they are measured again."""
    config = run.config
    settings = config.model_dump(mode="json", include={"model", "seed", "images", "sampling"})
    mix = config.mixture[task].model_dump(mode="json", include={"task", "max_new_tokens", "system", "instruction"})
    return {"data": dataset.fingerprint, "samples": samples, **settings, **mix}


def _read(path: Path, of: dict[str, Any]) -> list[dict[str, Any]]:
    """The whole lines after a first line that says `of`; none where there is no such file. A torn last line is cut off."""
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    lines = [json.loads(line) for line in whole.splitlines()]
    if lines[:1] != [of]:
        return []
    path.write_text(whole + "\n")
    return lines[1:]


def _rate(group: Group) -> tuple[int, PassRate]:
    rewards = [score.reward for score in group.scores if score.status is Status.OK]
    rate = PassRate(
        row=group.prompt.row.key,
        samples=group.prompt.group_size,
        scored=len(rewards),
        rate=fmean(rewards) if rewards else 0.0,
    )
    return group.prompt.slot, rate


def _write_kept(dataset: Dataset, rates: list[PassRate], folder: Path, at_most: float) -> None:
    manifest = dataset.manifest
    kept = (dataset[number] for number, rate in enumerate(rates) if rate.verdict(at_most) == "kept")
    write_dataset(
        folder,
        map(_new_row, kept),
        source=manifest.source,
        licence=manifest.licence,
        recipe=manifest.recipe,
        recipe_version=manifest.recipe_version,
    )


def _new_row(row: Row) -> NewRow:
    return NewRow(
        question=row.question,
        answer=row.answer,
        images=tuple(read_image_bytes(ref) for ref in row.images),
        meta=row.meta,
        response=row.response,
    )

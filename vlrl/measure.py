"""What a model gets for every row of a data set, sampled several times: the ground of evaluations and of filtering.

Kept row by row in a file, so that a measurement which was stopped goes on with what it has.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from vlrl.data.shards import Dataset
from vlrl.metrics import progress
from vlrl.rollout.engine import Engine, sampling_seed
from vlrl.rollout.groups import check_scored, encode_prompts, sample_groups
from vlrl.run import Run
from vlrl.scoring import Scorer
from vlrl.types import Draw, Group, Status

_ROUND = 0x46  # keeps these sampling seeds apart from the training steps' and their evaluations'
_ROLLOUTS_AT_A_TIME = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRewards:
    """Of a row by its key: the rewards of its samples that got a verdict, and how many got none."""

    row: str
    rewards: tuple[float, ...]
    failed: int

    @property
    def mean(self) -> float:
        """0 without any verdict."""
        return fmean(self.rewards) if self.rewards else 0.0


def measure(
    run: Run,
    task: str,
    dataset: Dataset,
    engine: Engine,
    scorer: Scorer,
    path: Path,
    *,
    samples: int,
    temperature: float,
    most_rows: int | None = None,
) -> list[RowRewards]:
    """The rewards of each row, or of the first `most_rows`, in the data set's order. All ranks call it, each samples a share.

    path: the file of what is known; rows that it has, measured under the same settings, are not sampled again.
    RuntimeError where more rollouts have no verdict than the run file allows.
    """
    run = run.with_rows({task: dataset})
    of = _origin(run, task, dataset, samples, temperature)
    known = run.ranks.gather(_read(path, of) if run.ranks.is_first else None)[0]
    rows = [RowRewards(**line | {"rewards": tuple(line["rewards"])}) for line in known][:most_rows]
    count = len(dataset) if most_rows is None else min(len(dataset), most_rows)
    at_a_time = max(1, _ROLLOUTS_AT_A_TIME // samples)
    with progress(f"Sampling {task}", count * samples, shown=run.ranks.is_first) as tick:
        tick(len(rows) * samples)
        for start in range(len(rows), count, at_a_time):
            places = range(start, min(start + at_a_time, count))
            prompts = [run.prompt(Draw(slot=index, task=task, index=index, minibatch=0), samples) for index in places]
            sampled, owned = run.replica(prompts)
            groups = sample_groups(
                sampled,
                encode_prompts(sampled, run.encoder, run.config.engine.max_model_len),
                engine=engine,
                scorer=scorer,
                temperature=temperature,
                seed=lambda slot, sample: sampling_seed(run.config.seed, _ROUND, slot, sample),
                owned=owned,
                tick=lambda: tick(run.ranks.size),
            )
            where = f"task {task}, rows {places[0]} to {places[-1]}"
            check_scored(groups, run.ranks, most=run.config.scoring.max_failed_share, where=where)
            found = {slot: row for part in run.ranks.gather(dict(map(_rewards, groups))) for slot, row in part.items()}
            rows += [found[slot] for slot in places]
            if run.ranks.is_first:
                with path.open("a") as file:
                    file.writelines(json.dumps(asdict(found[slot])) + "\n" for slot in places)
    return rows


def _origin(run: Run, task: str, dataset: Dataset, samples: int, temperature: float) -> dict[str, Any]:
    """What the rewards depend on: where it is another, they are measured again."""
    config = run.config
    settings = config.model_dump(mode="json", include={"model", "seed", "images"})
    mix = config.mixture[task].model_dump(mode="json", include={"task", "system", "instruction"})
    sampling = {"samples": samples, "temperature": temperature, "max_new_tokens": config.max_new_tokens(task)}
    return {"data": dataset.fingerprint, **settings, **mix, **sampling}


def _read(path: Path, of: dict[str, Any]) -> list[dict[str, Any]]:
    """The whole lines after a first line that says `of`; a file without it, or none, begins anew. A torn last line is cut off."""
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    lines = [json.loads(line) for line in whole.splitlines()]
    if lines[:1] != [of]:
        whole, lines = json.dumps(of), [of]
        path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(whole + "\n")
    return lines[1:]


def _rewards(group: Group) -> tuple[int, RowRewards]:
    rewards = tuple(score.reward for score in group.scores if score.status is Status.OK)
    failed = group.prompt.group_size - len(rewards)
    return group.prompt.slot, RowRewards(row=group.prompt.row.key, rewards=rewards, failed=failed)

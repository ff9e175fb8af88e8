"""What a model gets for rows that it is given, sampled several times: the ground of evaluations and of filtering."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from vlrl.config import Evaluation
from vlrl.data.shards import Dataset
from vlrl.metrics import append_lines, progress, whole_lines, write_whole
from vlrl.rollout.engine import Decoding, Engine, sampling_seed
from vlrl.rollout.groups import check_scored, encode_prompts, sample_groups
from vlrl.run import Run
from vlrl.scoring import Scorer
from vlrl.types import Draw, Group, Prompt, Status

_ROUND = 0x46  # keeps these sampling seeds apart from the training steps'
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


def sample_rows(
    run: Run,
    prompts: Sequence[Prompt],
    engine: Engine,
    scorer: Scorer,
    *,
    way: Evaluation,
    seed_round: int,
    where: str,
    tick: Callable[[int], None],
) -> dict[int, RowRewards]:
    """The rewards of each prompt's row by slot. All ranks call it, each samples a share, and all get all.

    seed_round: sets the sampling seeds apart from those of other rounds. tick: told how many rollouts have come in.
    RuntimeError, naming `where`, where more rollouts have no verdict than the run file allows.
    """
    sampled, owned = run.replica(prompts)
    groups = sample_groups(
        sampled,
        encode_prompts(sampled, run.encoder, run.config.engine.max_model_len),
        engine=engine,
        scorer=scorer,
        decoding=Decoding(temperature=way.temperature, top_p=way.top_p, top_k=way.top_k),
        seed=lambda slot, sample: sampling_seed(run.config.seed, seed_round, slot, sample),
        owned=owned,
        tick=lambda: tick(run.ranks.size),
    )
    check_scored(groups, run.ranks, most=run.config.scoring.max_failed_share, where=where)
    return {slot: row for part in run.ranks.gather(dict(map(_rewards, groups))) for slot, row in part.items()}


def measure(
    run: Run, task: str, dataset: Dataset, engine: Engine, scorer: Scorer, path: Path, *, way: Evaluation
) -> list[RowRewards]:
    """The rewards of each row, or of the first `way.rows`, in the data set's order. All ranks call it.

    path: the file of what is known, row by row, with which a measurement that was stopped goes on; rows that it has, measured
    in the same way, are not sampled again. RuntimeError where more rollouts have no verdict than the run file allows.
    """
    run = run.with_rows({task: dataset})
    count = min(len(dataset), way.rows)
    known = run.ranks.gather(_begin(path, _origin(run, task, dataset, way)) if run.ranks.is_first else None)[0]
    rows = [RowRewards(**line | {"rewards": tuple(line["rewards"])}) for line in known][:count]
    at_a_time = max(1, _ROLLOUTS_AT_A_TIME // way.samples)
    with progress(f"Sampling {task}", count * way.samples, shown=run.ranks.is_first) as tick:
        tick(len(rows) * way.samples)
        for start in range(len(rows), count, at_a_time):
            places = range(start, min(start + at_a_time, count))
            draws = [Draw(slot=index, task=task, index=index, minibatch=0) for index in places]
            prompts = [run.prompt(draw, way.samples, way.max_new_tokens) for draw in draws]
            where = f"task {task}, rows {places[0]} to {places[-1]}"
            found = sample_rows(run, prompts, engine, scorer, way=way, seed_round=_ROUND, where=where, tick=tick)
            rows += [found[slot] for slot in places]
            if run.ranks.is_first:
                append_lines(path, [asdict(found[slot]) for slot in places])
    return rows


def _origin(run: Run, task: str, dataset: Dataset, way: Evaluation) -> dict[str, Any]:
    """What the rewards depend on: where it is another, they are measured again."""
    config = run.config
    settings = config.model_dump(mode="json", include={"model", "seed", "images"})
    mix = config.mixture[task].model_dump(mode="json", include={"task", "system", "instruction"})
    sampling = way.model_dump(include={"samples", "temperature", "top_p", "top_k"})
    longest = {"max_new_tokens": way.max_new_tokens or config.max_new_tokens(task)}
    return {"data": dataset.fingerprint, **settings, **mix, **sampling, **longest}


def _begin(path: Path, of: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines after a first one that says `of`; a file without it begins anew. Leaves the file without a torn last line."""
    known = list(whole_lines(path))
    lines = known[1:] if known[:1] == [of] else []
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(line) + "\n" for line in [of, *lines]))
    return lines


def _rewards(group: Group) -> tuple[int, RowRewards]:
    rewards = tuple(score.reward for score in group.scores if score.status is Status.OK)
    failed = group.prompt.group_size - len(rewards)
    return group.prompt.slot, RowRewards(row=group.prompt.row.key, rewards=rewards, failed=failed)

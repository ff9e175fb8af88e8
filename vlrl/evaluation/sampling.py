"""Samples rows several times with the model and scores the responses, for evaluations and for filtering."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlrl.common.jsonl import append_jsonl, read_jsonl, write_atomically
from vlrl.common.signals import Stopped, StopSignal
from vlrl.config import EvaluationConfig
from vlrl.evaluation.records import Measurement, fault, origin, row_rewards
from vlrl.rollout.engine import Decoding, Engine, sampling_seed
from vlrl.rollout.groups import encode_prompts, sample_groups
from vlrl.rollout.unscored import Unscored
from vlrl.run import Run
from vlrl.scoring import Scorer
from vlrl.telemetry.progress import progress
from vlrl.types import Draw, Group, Prompt, RowRewards

_ROUND = 0x46  # keeps these sampling seeds apart from the training steps'
_ROLLOUTS_AT_A_TIME = 1024


def sample_rows(
    run: Run,
    prompts: Sequence[Prompt],
    engine: Engine,
    scorer: Scorer,
    *,
    settings: EvaluationConfig,
    seed_round: int,
    where: str,
    tick: Callable[[int], None],
    stop: StopSignal | None = None,
) -> dict[int, RowRewards]:
    """The rewards of each prompt's row, by slot. All ranks call it; each samples a share, and all get the whole result.

    seed_round: keeps these sampling seeds apart from those of other rounds. tick: called with the number of finished rollouts.
    Raises RuntimeError, naming `where`, if more of a task's rollouts have no verdict than the run file allows, and Stopped on all
    ranks if `stop` was requested meanwhile.
    """
    sampled, owned = run.replica(prompts)

    def came_in() -> None:
        tick(run.ranks.size)
        if stop:
            stop.end_sampling(run.config.ranks_per_engine)

    groups: list[Group] = []
    with suppress(Stopped):
        groups = sample_groups(
            encode_prompts(sampled, run.encoder, run.config.engine.max_model_len),
            engine=engine,
            scorer=scorer,
            decode=run.encoder.decode,
            decoding=Decoding(temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k),
            seed=lambda slot, sample, _: sampling_seed(run.config.seed, seed_round, slot, sample),
            owned=owned,
            tick=came_in,
        )
    if stop and run.ranks.any(stop.requested):
        raise Stopped
    Unscored().see(groups, run.ranks, most=run.config.scoring.max_failed_share, where=where)
    return {slot: row for part in run.ranks.gather(dict(map(_rewards, groups))) for slot, row in part.items()}


def check_measurements(run: Run, measurements: Sequence[Measurement]) -> None:
    """Raises ValueError on all ranks if a measurement would overwrite other results. All ranks call it before the engine starts.

    A file belongs to one model, one verifier and one set of sampling settings. It is not overwritten by results that differ in
    any of these, or that have fewer rows.
    """
    faults = [fault(run, run.weights, each) for each in measurements] if run.ranks.is_first else []
    if found := [fault for fault in run.ranks.broadcast(faults) if fault]:
        raise ValueError("\n".join(found))


def measure(run: Run, measurement: Measurement, engine: Engine, scorer: Scorer) -> list[RowRewards]:
    """The rewards of each row. All ranks call it. Rows that are already in the file are not sampled again.

    Raises RuntimeError if more rollouts have no verdict than the run file allows.
    """
    task, settings, path, count = measurement.task, measurement.settings, measurement.path, measurement.num_rows
    start_of_file = origin(run, run.weights, measurement)
    run = run.with_rows({task: measurement.dataset})
    known = run.ranks.broadcast(_begin(path, start_of_file) if run.ranks.is_first else None)
    rows = list(map(row_rewards, known))
    at_a_time = max(1, _ROLLOUTS_AT_A_TIME // settings.samples)
    done = len(rows) * settings.samples
    with progress(f"Sampling {task}", count * settings.samples, done=done, shown=run.ranks.is_first) as tick:
        for start in range(len(rows), count, at_a_time):
            places = range(start, min(start + at_a_time, count))
            draws = [Draw(slot=index, task=task, index=index, minibatch=0) for index in places]
            prompts = [run.prompt(draw, settings.samples, settings.max_new_tokens) for draw in draws]
            where = f"task {task}, rows {places[0]} to {places[-1]}"
            found = sample_rows(run, prompts, engine, scorer, settings=settings, seed_round=_ROUND, where=where, tick=tick)
            rows += [found[slot] for slot in places]
            if run.ranks.is_first:
                append_jsonl(path, [asdict(found[slot]) for slot in places])
    return rows


def _begin(path: Path, head: dict[str, Any]) -> list[dict[str, Any]]:
    """Creates or repairs the file and returns its row lines. The first line, `head`, has the settings. Cuts a torn last line."""
    _, *lines = list(read_jsonl(path)) or [head]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(line) + "\n" for line in [head, *lines]))
    return lines


def _rewards(group: Group) -> tuple[int, RowRewards]:
    rewards = tuple(sample.score.reward for sample in group.samples if sample.is_scored)
    failed = group.prompt.group_size - len(rewards)
    return group.prompt.slot, RowRewards(row=group.prompt.row.key, rewards=rewards, failed=failed)

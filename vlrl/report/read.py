"""Reads a run's folder for its report. A run that is still training is read up to its last complete step."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from vlrl.common.jsonl import read_jsonl
from vlrl.common.suggest import nearest_folder
from vlrl.config import Config
from vlrl.run_file import load_config
from vlrl.stats import Estimate, estimate
from vlrl.telemetry.run_log import step_of
from vlrl.trainer.rollback import LEFT_BEHIND, Rollback, read_record

MOST_ROLLOUTS = 10_000  # in the browser; a longer run shows the rollouts of evenly spaced steps
_SETTINGS = "config.yaml"

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """A run's metrics and histograms, one line per step."""

    metrics: list[Line]
    histograms: list[Line]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftBehind(Steps):
    """The steps that a rollback abandoned: those after the step that the run went back to."""

    rollback: Rollback


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData(Steps):
    """A run's settings and logs.

    rewards: the mean reward by task and step, with its interval over the means of the groups; groups: the rollouts of each
    prompt, and traces the responses that were logged token by token, both for the steps that the browser shows; left_behind: the
    abandoned steps of each rollback.
    """

    name: str
    folder: Path
    config: Config
    rewards: dict[str, dict[int, Estimate]]
    groups: list[list[Line]]
    traces: dict[tuple[int, int, int], Line]
    summary: Line
    num_rollouts: int
    left_behind: list[LeftBehind]

    @property
    def tasks(self) -> list[str]:
        return list(self.config.mixture)


def read_steps(folder: Path) -> Steps:
    """Reads a run's steps; there are none if the run has not started."""
    return Steps(**_lines(folder))


def check_is_run(folder: Path) -> None:
    """Raises ValueError if the folder is not a run's."""
    if not (folder / _SETTINGS).exists():
        near = nearest_folder(folder, with_file=_SETTINGS)
        fault = "is not a run's folder: it has no config.yaml" if folder.is_dir() else "does not exist"
        raise ValueError(f"{folder} {fault}; {near}A run's folder is RUNS/NAME, with `runs` and `name` of its run file")


def read_run(folder: Path) -> RunData:
    """Reads a run. Raises ValueError if the folder is not a run's."""
    check_is_run(folder)
    config = load_config(folder / _SETTINGS)
    steps = read_steps(folder)
    rewards: dict[str, dict[int, Estimate]] = defaultdict(dict)
    num_rollouts = 0
    means: dict[tuple[str, int], list[float]] = defaultdict(list)
    for group in _groups(folder):
        num_rollouts += len(group)
        scored = [line["reward"] for line in group if line["status"] == "ok"]
        if scored:
            means[group[0]["task"], group[0]["step"]].append(fmean(scored))
    for (task, step), values in means.items():
        rewards[task][step] = estimate(values)
    every = math.ceil(num_rollouts / MOST_ROLLOUTS) or 1
    last = steps.metrics[-1]["step"] if steps.metrics else 0

    def is_shown(line: str) -> bool:
        return (last - step_of(line)) % every == 0

    traces = {(line["step"], line["slot"], line["sample"]): line for line in read_jsonl(folder / "tokens.jsonl", is_shown)}
    return RunData(
        name=config.name,
        folder=folder,
        config=config,
        metrics=steps.metrics,
        histograms=steps.histograms,
        rewards=dict(rewards),
        groups=list(_groups(folder, is_shown)),
        traces=traces,
        summary=json.loads((folder / "summary.json").read_text()) if (folder / "summary.json").exists() else {},
        num_rollouts=num_rollouts,
        left_behind=[
            LeftBehind(rollback=each, **_lines(folder / LEFT_BEHIND / str(each.number))) for each in read_record(folder)
        ],
    )


def _lines(folder: Path) -> dict[str, list[Line]]:
    return {name: list(read_jsonl(folder / f"{name}.jsonl")) for name in ("metrics", "histograms")}


def _groups(folder: Path, wanted: Callable[[str], bool] = bool) -> Iterator[list[Line]]:
    lines = read_jsonl(folder / "rollouts.jsonl", wanted)
    for _, group in groupby(lines, key=lambda line: (line["step"], line["slot"], line["round"])):
        yield list(group)

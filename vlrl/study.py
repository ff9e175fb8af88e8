"""A study runs the arms of a comparison with the same seeds, and writes its tables and one page.

Every run is a `vlrl train` process of its own, so a stopped study can be resumed: each run continues from its last step.
"""

import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import yaml
from pydantic import ValidationError

from vlrl.common.jsonl import write_atomically
from vlrl.config import Section
from vlrl.report.read import Steps, read_steps
from vlrl.stats import Difference, Estimate, difference, estimate

_LAST = 10  # a run's final reward is the mean over this many last steps
_HEAD = ("runs", "reward of the last ten steps", "against the first arm", "p", "held-out accuracy", "collapsed")
Arms = Mapping[str, Mapping[int, Steps]]
"""The steps of each run, by arm and seed."""


class Tune(Section):
    """A setting that each arm has at its own best value.

    setting: its path in the run file; values: those tried; seeds: those of the runs that choose. The study has others, because
    a value looks better than it is on the seeds that chose it.
    """

    setting: str
    values: tuple[float, ...]
    seeds: tuple[int, ...]


class Study(Section):
    """A study's file.

    settings: overrides of the run file for all arms; arms: overrides for each arm, which is compared with the first; tune: a
    setting that is chosen for each arm first; metrics: by the title of its column, a logged metric that the table has too, as the
    mean of the last ten steps.
    """

    run: Path
    settings: tuple[str, ...] = ()
    arms: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    tune: Tune | None = None
    metrics: dict[str, str] = {}


@dataclass(frozen=True)
class _Run:
    name: str
    settings: tuple[str, ...]


def load_study(path: Path) -> Study:
    """Reads a study's file. Raises ValueError if the file is missing or invalid."""
    if not path.exists():
        raise ValueError(f"there is no study file {path}; configs/studies/ has examples")
    try:
        study = Study.model_validate(yaml.safe_load(path.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if len(study.arms) < 2 or not study.seeds:
        raise ValueError(
            f"{path}: a study needs two arms or more and one seed or more, got {len(study.arms)} and {len(study.seeds)}"
        )
    if study.tune and (len(study.tune.values) < 2 or not study.tune.seeds):
        raise ValueError(f"{path}: tune needs two values or more and one seed or more, got {study.tune}")
    if study.tune and (both := sorted({*study.tune.seeds} & {*study.seeds})):
        raise ValueError(f"{path}: tune and the study both have the seeds {both}; choose with seeds that the study does not use")
    return study


def run_study(study: Study, folder: Path, overrides: Sequence[str] = (), jobs: int = 1) -> list[str]:
    """Runs every arm with every seed, `jobs` at a time, after the runs that choose each arm's value.

    Returns the names of the runs that failed; FOLDER has their logs. An arm of which every choosing run failed is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = (*study.settings, *overrides)
    failed = _run_all(study.run, folder, shared, list(_choosing(study)), jobs)
    return failed + _run_all(study.run, folder, shared, list(_compared(study, folder)), jobs)


def read_arms(study: Study, folder: Path) -> Arms:
    """Reads the runs so far. Leaves out runs without a step and arms without a run."""
    return _read({arm: arm for arm in study.arms}, study.seeds, folder)


def end(run: Steps) -> float:
    """The mean reward of a run's last ten steps."""
    return _last_mean(run, "reward/mean")


def collapsed(rewards: Sequence[float]) -> bool:
    """Whether the last ten steps' mean reward is below half of the best mean of ten consecutive steps."""
    windows = [fmean(rewards[start : start + _LAST]) for start in range(max(1, len(rewards) - _LAST + 1))]
    return windows[-1] < 0.5 * max(windows)


def best_values(study: Study, folder: Path) -> dict[str, float]:
    """The value of the tuned setting with the highest mean final reward, by arm; of equal ones the first that the file names."""
    return {arm: max(tried, key=tried.__getitem__) for arm, tried in _tried(study, folder).items()}


def table(study: Study, arms: Arms, chosen: Mapping[str, float]) -> list[tuple[str, ...]]:
    """The header row, then one row for each arm.

    A row has the arm's value of the tuned setting, its final reward, its difference from the first arm over the seeds that both
    have, and the last held-out accuracy, with 95 % intervals over seeds; then the means of the study's metrics.
    """
    first = next(iter(arms.values()))
    tuned = [study.tune.setting] if study.tune else []
    rows: list[tuple[str, ...]] = [("arm", *tuned, *_HEAD, *study.metrics)]
    for number, (arm, runs) in enumerate(arms.items()):
        both = [seed for seed in runs if seed in first] if number else []
        change = difference([end(first[seed]) for seed in both], [end(runs[seed]) for seed in both]) if both else None
        heldout = [value for run in runs.values() if (value := _last_evaluation(run)) is not None]
        rows.append(
            (
                arm,
                *(f"{chosen[arm]:g}" if arm in chosen else "" for _ in tuned),
                str(len(runs)),
                _with_interval(estimate([end(run) for run in runs.values()])),
                _with_interval(change) if change else "",
                f"{change.p:.3f}" if change else "",
                _with_interval(estimate(heldout)) if heldout else "",
                str(sum(collapsed([line["reward/mean"] for line in run.metrics]) for run in runs.values())),
                *(f"{fmean(_last_mean(run, metric) for run in runs.values()):.4f}" for metric in study.metrics.values()),
            )
        )
    return rows


def choices(study: Study, folder: Path) -> list[tuple[str, ...]]:
    """The header row, then for each arm the mean final reward at each value that was tried; empty without `tune`."""
    if not study.tune:
        return []
    values = study.tune.values
    rows = [("arm", *(f"{study.tune.setting}={value:g}" for value in values))]
    for arm, tried in _tried(study, folder).items():
        rows.append((arm, *(f"{tried[value]:.3f}" if value in tried else "" for value in values)))
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its header."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_results(study: Study, folder: Path) -> str:
    """Writes FOLDER/study.md and study.html, and returns the tables. Raises ValueError if no run has logged a step."""
    from vlrl.report.arms import write_study

    arms = read_arms(study, folder)
    if not arms:
        raise ValueError(f"no run of the study has logged a step in {folder}; the .log files there say why")
    rows, tried = table(study, arms, best_values(study, folder)), choices(study, folder)
    tables = markdown(rows) + (f"\n{markdown(tried)}" if tried else "")
    write_atomically(folder / "study.md", [tables])
    write_study(folder / "study.html", folder.name, rows, {arm: list(runs.values()) for arm, runs in arms.items()})
    return tables


def _choosing(study: Study) -> Iterator[_Run]:
    """The runs that choose each arm's value of the tuned setting."""
    if study.tune:
        for seed in study.tune.seeds:
            for value in study.tune.values:
                for arm, settings in study.arms.items():
                    yield _Run(f"{arm}-{value:g}-{seed}", (*settings, f"{study.tune.setting}={value:g}", f"seed={seed}"))


def _compared(study: Study, folder: Path) -> Iterator[_Run]:
    """The runs that are compared: seed by seed, so that a study which is stopped early has compared all arms."""
    best = best_values(study, folder)
    for seed in study.seeds:
        for arm, settings in study.arms.items():
            if not study.tune:
                yield _Run(f"{arm}-{seed}", (*settings, f"seed={seed}"))
            elif arm in best:
                yield _Run(f"{arm}-{seed}", (*settings, f"{study.tune.setting}={best[arm]:g}", f"seed={seed}"))


def _run_all(file: Path, folder: Path, shared: Sequence[str], runs: Sequence[_Run], jobs: int) -> list[str]:
    """Starts the runs in their order and waits for them. On an interrupt it terminates those that run, which save their state."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    failed = []
    try:
        for number, run in enumerate(runs, start=1):
            if len(running) == jobs:
                failed += _failed_of_next(running)
            print(f"run {number} of {len(runs)}: {run.name}", flush=True)
            settings = [*shared, *run.settings, f"name={run.name}", f"runs={folder}"]
            with (folder / f"{run.name}.log").open("a") as log:
                command = [sys.executable, "-m", "vlrl.cli", "train", str(file), *settings]
                running[run.name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while running:
            failed += _failed_of_next(running)
    except KeyboardInterrupt:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        raise
    return failed


def _failed_of_next(running: dict[str, subprocess.Popen[bytes]]) -> list[str]:
    """Waits until one run or more have ended, and takes them out. Returns the names of those that failed."""
    while not (ended := [name for name, process in running.items() if process.poll() is not None]):
        time.sleep(0.2)
    return [name for name in ended if running.pop(name).returncode]


def _tried(study: Study, folder: Path) -> dict[str, dict[float, float]]:
    """The mean final reward over the choosing seeds, by arm and value. Leaves out what has not logged a step."""
    found: dict[str, dict[float, float]] = {}
    if not study.tune:
        return found
    for value in study.tune.values:
        for arm, runs in _read({arm: f"{arm}-{value:g}" for arm in study.arms}, study.tune.seeds, folder).items():
            found.setdefault(arm, {})[value] = fmean(end(run) for run in runs.values())
    return found


def _read(names: Mapping[str, str], seeds: Sequence[int], folder: Path) -> Arms:
    """The steps of the runs NAME-SEED, by arm and seed; names: each arm's NAME."""
    found = {arm: {seed: read_steps(folder / f"{name}-{seed}") for seed in seeds} for arm, name in names.items()}
    begun = {arm: {seed: run for seed, run in runs.items() if run.metrics} for arm, runs in found.items()}
    return {arm: runs for arm, runs in begun.items() if runs}


def _last_mean(run: Steps, metric: str) -> float:
    """The mean of a metric over the run's last ten steps; nan if none of them has it."""
    values = [line[metric] for line in run.metrics[-_LAST:] if metric in line]
    return fmean(values) if values else math.nan


def _last_evaluation(run: Steps) -> float | None:
    """The mean held-out accuracy at the run's end, or else at its last evaluation; None if nothing was evaluated."""
    evaluated = [line["eval/mean"] for line in run.metrics if "eval/mean" in line]
    if mean := run.summary.get("mean"):
        evaluated.append(mean["after"])
    return evaluated[-1] if evaluated else None


def _with_interval(found: Estimate | Difference) -> str:
    sign = "+" if isinstance(found, Difference) else ""
    return f"{found.mean:{sign}.3f} ± {found.interval:.3f}"

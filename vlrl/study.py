"""A study: the arms of a comparison, each run with the same seeds, and one table and page at the end.

Every run is `vlrl train` in a process of its own, so a study that was stopped goes on where it was, run by run and step by step.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import yaml
from pydantic import ValidationError

from vlrl.common.jsonl import write_atomically
from vlrl.config import Section
from vlrl.report.read import Steps, read_steps
from vlrl.stats import Difference, Estimate, difference, estimate

_LAST = 10  # steps whose mean reward is a run's end
_HEAD = ("arm", "runs", "reward of the last ten steps", "against the first arm", "p", "held-out accuracy", "collapsed")
Arms = Mapping[str, Mapping[int, Steps]]
"""By arm and seed, the steps of a run."""


class Study(Section):
    """A study's file. settings: overrides of the run file for all arms; arms: those of each, all are held to the first."""

    run: Path
    settings: tuple[str, ...] = ()
    arms: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]


def load_study(path: Path) -> Study:
    """ValueError where the file cannot be used."""
    if not path.exists():
        raise ValueError(f"no study {path}; configs/studies/ holds some")
    try:
        study = Study.model_validate(yaml.safe_load(path.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if len(study.arms) < 2 or not study.seeds:
        raise ValueError(f"{path}: a study has two arms or more, and a seed or more")
    return study


def run_study(study: Study, folder: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Runs every arm with every seed, one after another. Returns the names of runs that failed; their logs are in the folder."""
    failed = []
    folder.mkdir(parents=True, exist_ok=True)
    runs = [(arm, seed) for seed in study.seeds for arm in study.arms]
    for number, (arm, seed) in enumerate(runs, start=1):
        name = f"{arm}-{seed}"
        print(f"run {number} of {len(runs)}: {name}", flush=True)
        settings = [*study.settings, *overrides, *study.arms[arm], f"seed={seed}", f"name={name}", f"runs={folder}"]
        with (folder / f"{name}.log").open("a") as log:
            command = [sys.executable, "-m", "vlrl.cli", "train", str(study.run), *settings]
            if _exit_code(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)):
                failed.append(name)
    return failed


def _exit_code(run: subprocess.Popen[bytes]) -> int:
    """The run's, once it ends. One that is interrupted passes that on, so that the run saves its state."""
    try:
        return run.wait()
    except KeyboardInterrupt:
        run.terminate()
        run.wait()
        raise


def read_arms(study: Study, folder: Path) -> Arms:
    """What has been run so far; a run without a step, and an arm without a run, is left out."""
    found = {arm: {seed: read_steps(folder / f"{arm}-{seed}") for seed in study.seeds} for arm in study.arms}
    begun = {arm: {seed: run for seed, run in runs.items() if run.metrics} for arm, runs in found.items()}
    return {arm: runs for arm, runs in begun.items() if runs}


def end(run: Steps) -> float:
    """The mean reward of a run's last ten steps."""
    return fmean(line["reward/mean"] for line in run.metrics[-_LAST:])


def collapsed(rewards: Sequence[float]) -> bool:
    """Whether a run ended under half of the best ten steps in a row that it had."""
    windows = [fmean(rewards[start : start + _LAST]) for start in range(max(1, len(rewards) - _LAST + 1))]
    return windows[-1] < 0.5 * max(windows)


def table(arms: Arms) -> list[tuple[str, ...]]:
    """A head and a row for each arm: its end, the held-out accuracy last seen, and its difference from the first arm's end over
    the seeds that both have, with 95 % intervals over seeds."""
    first = next(iter(arms.values()))
    rows: list[tuple[str, ...]] = [_HEAD]
    for number, (arm, runs) in enumerate(arms.items()):
        both = [seed for seed in runs if seed in first] if number else []
        change = difference([end(first[seed]) for seed in both], [end(runs[seed]) for seed in both]) if both else None
        heldout = [value for run in runs.values() if (value := _last_evaluation(run)) is not None]
        rows.append(
            (
                arm,
                str(len(runs)),
                _told(estimate([end(run) for run in runs.values()])),
                _told(change) if change else "",
                f"{change.p:.3f}" if change else "",
                _told(estimate(heldout)) if heldout else "",
                str(sum(collapsed([line["reward/mean"] for line in run.metrics]) for run in runs.values())),
            )
        )
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first row its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_results(study: Study, folder: Path) -> str:
    """Writes FOLDER/study.md and study.html, and returns the table. ValueError where nothing has run."""
    from vlrl.report.arms import write_study

    arms = read_arms(study, folder)
    if not arms:
        raise ValueError(f"no run of the study has left a step in {folder}; the logs there say why")
    rows = table(arms)
    write_atomically(folder / "study.md", [markdown(rows)])
    write_study(folder / "study.html", folder.name, rows, {arm: list(runs.values()) for arm, runs in arms.items()})
    return markdown(rows)


def _last_evaluation(run: Steps) -> float | None:
    return next((line["eval/mean"] for line in reversed(run.metrics) if "eval/mean" in line), None)


def _told(found: Estimate | Difference) -> str:
    sign = "+" if isinstance(found, Difference) else ""
    return f"{found.mean:{sign}.3f} ± {found.interval:.3f}"

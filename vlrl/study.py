"""A study runs the arms of a comparison with the same seeds, and writes one table and one page.

Every run is a `vlrl train` process of its own, so a stopped study can be resumed: each run continues from its last step.
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

_LAST = 10  # a run's final reward is the mean over this many last steps
_HEAD = ("arm", "runs", "reward of the last ten steps", "against the first arm", "p", "held-out accuracy", "collapsed")
Arms = Mapping[str, Mapping[int, Steps]]
"""The steps of each run, by arm and seed."""


class Study(Section):
    """A study's file.

    settings: overrides of the run file for all arms; arms: overrides for each arm, which is compared with the first.
    """

    run: Path
    settings: tuple[str, ...] = ()
    arms: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]


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
    return study


def run_study(study: Study, folder: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Runs every arm with every seed, one after another. Returns the names of the runs that failed; FOLDER has their logs."""
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
    """Waits for the run and returns its exit code. On an interrupt it first terminates the run, which then saves its state."""
    try:
        return run.wait()
    except KeyboardInterrupt:
        run.terminate()
        run.wait()
        raise


def read_arms(study: Study, folder: Path) -> Arms:
    """Reads the runs so far. Leaves out runs without a step and arms without a run."""
    found = {arm: {seed: read_steps(folder / f"{arm}-{seed}") for seed in study.seeds} for arm in study.arms}
    begun = {arm: {seed: run for seed, run in runs.items() if run.metrics} for arm, runs in found.items()}
    return {arm: runs for arm, runs in begun.items() if runs}


def end(run: Steps) -> float:
    """The mean reward of a run's last ten steps."""
    return fmean(line["reward/mean"] for line in run.metrics[-_LAST:])


def collapsed(rewards: Sequence[float]) -> bool:
    """Whether the last ten steps' mean reward is below half of the best mean of ten consecutive steps."""
    windows = [fmean(rewards[start : start + _LAST]) for start in range(max(1, len(rewards) - _LAST + 1))]
    return windows[-1] < 0.5 * max(windows)


def table(arms: Arms) -> list[tuple[str, ...]]:
    """The header row, then one row for each arm.

    A row has the arm's final reward, its difference from the first arm over the seeds that both have, and the last held-out
    accuracy, with 95 % intervals over seeds.
    """
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
                _with_interval(estimate([end(run) for run in runs.values()])),
                _with_interval(change) if change else "",
                f"{change.p:.3f}" if change else "",
                _with_interval(estimate(heldout)) if heldout else "",
                str(sum(collapsed([line["reward/mean"] for line in run.metrics]) for run in runs.values())),
            )
        )
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its header."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_results(study: Study, folder: Path) -> str:
    """Writes FOLDER/study.md and study.html, and returns the table. Raises ValueError if no run has logged a step."""
    from vlrl.report.arms import write_study

    arms = read_arms(study, folder)
    if not arms:
        raise ValueError(f"no run of the study has logged a step in {folder}; the .log files there say why")
    rows = table(arms)
    write_atomically(folder / "study.md", [markdown(rows)])
    write_study(folder / "study.html", folder.name, rows, {arm: list(runs.values()) for arm, runs in arms.items()})
    return markdown(rows)


def _last_evaluation(run: Steps) -> float | None:
    return next((line["eval/mean"] for line in reversed(run.metrics) if "eval/mean" in line), None)


def _with_interval(found: Estimate | Difference) -> str:
    sign = "+" if isinstance(found, Difference) else ""
    return f"{found.mean:{sign}.3f} ± {found.interval:.3f}"

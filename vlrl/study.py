"""A study: the arms of a comparison, each run with the same seeds, and one table and page at the end.

Every run is `vlrl train` in a process of its own, so a study that was stopped goes on where it was, run by run and step by step.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import yaml
from pydantic import ValidationError

from vlrl.config import Section
from vlrl.intervals import Difference, Estimate, difference, estimate
from vlrl.metrics import write_whole

_LAST = 10  # steps whose mean reward is a run's end
Curves = dict[str, list[list[float]]]
"""By arm, the mean reward of every step of each seed's run."""


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
            if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
                failed.append(name)
    return failed


def read_curves(study: Study, folder: Path) -> Curves:
    """What has been run so far; an arm without any run is left out."""
    curves: Curves = {}
    for arm in study.arms:
        paths = [folder / f"{arm}-{seed}" / "metrics.jsonl" for seed in study.seeds]
        found = [[json.loads(line)["reward/mean"] for line in path.read_text().splitlines()] for path in paths if path.exists()]
        if any(found):
            curves[arm] = [curve for curve in found if curve]
    return curves


def ends(curves: Curves) -> dict[str, list[float]]:
    """Of each arm's runs the mean reward of the last ten steps."""
    return {arm: [fmean(curve[-_LAST:]) for curve in of_arm] for arm, of_arm in curves.items()}


def collapsed(curve: Sequence[float]) -> bool:
    """Whether a run ended under half of the best ten steps in a row that it had."""
    windows = [fmean(curve[start : start + _LAST]) for start in range(max(1, len(curve) - _LAST + 1))]
    return windows[-1] < 0.5 * max(windows)


def table(curves: Curves) -> str:
    """Markdown: each arm's end and its difference from the first arm, seed by seed, with 95 % intervals over seeds."""
    found = ends(curves)
    first = next(iter(found.values()))
    lines = [
        "| arm | runs | reward of the last ten steps | against the first arm | p | collapsed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for number, (arm, values) in enumerate(found.items()):
        against, p = "", ""
        if number and len(values) == len(first):
            change = difference(first, values)
            against, p = _told(change), f"{change.p:.3f}"
        count = sum(map(collapsed, curves[arm]))
        lines.append(f"| {arm} | {len(values)} | {_told(estimate(values))} | {against} | {p} | {count} |")
    return "\n".join(lines) + "\n"


def write_results(study: Study, folder: Path) -> str:
    """Writes FOLDER/study.md and study.html, the curves of all arms. Returns the table. ValueError where nothing has run."""
    from vlrl.report.page import write_figure

    curves = read_curves(study, folder)
    if not curves:
        raise ValueError(f"no run of the study has left a step in {folder}; the logs there say why")
    told = table(curves)
    write_whole(folder / "study.md", [told])
    write_figure(folder / "study.html", folder.name, curves)
    return told


def _told(found: Estimate | Difference) -> str:
    sign = "+" if isinstance(found, Difference) else ""
    return f"{found.mean:{sign}.3f} ± {found.interval:.3f}"

"""What a run and an evaluation print at their end: tables of the tasks, and what to do where a task did not rise."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from vlrl.config import Config


def _rise(values: Mapping[str, float]) -> tuple[float, float]:
    """A task's rise and its 95 % interval, from its entry in the summary."""
    return values["after"] - values["before"], math.hypot(values["before_interval"], values["after_interval"])


_BEGAN_WELL = 0.5  # an accuracy that no task has by chance


def without_a_rise(config: Config, tasks: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """A sentence for each task that did not rise by more than its interval, with what to do."""
    for task, values in tasks.items():
        rise, interval = _rise(values)
        if rise < -interval:
            yield (
                f"{task} fell by more than its interval, from {values['before']:.3f} to {values['after']:.3f}. Lower policy.lr, "
                f"give the task a larger mixture.{task}.weight, or set on_collapse to rollback; see docs/learning.md"
            )
        elif rise <= interval and values["before"] >= _BEGAN_WELL:
            yield (
                f"{task} did not rise by more than its interval. It began at {values['before']:.3f}, which leaves little to "
                "learn: make more steps (a larger steps continues this run) or a shorter cold start, or set a larger "
                "evaluation.rows for a narrower interval; see docs/learning.md"
            )
        elif rise <= interval:
            mix = config.mixture[task]
            now = f"{mix.coldstart_weight or mix.weight:g} now" if config.coldstart.steps else "with coldstart.steps above 0"
            more = f"give the task more of the cold start (mixture.{task}.coldstart_weight, {now}), or leave it out"
            if len(config.mixture) == 1:
                more = f"make a longer cold start (coldstart.steps, {config.coldstart.steps} now)"
            yield (
                f"{task} did not rise by more than its interval. Its accuracy before the run was {values['before']:.3f}. "
                f"If that is chance level, {more}; else make more steps ({config.steps} now); see docs/learning.md"
            )


def print_evaluation(model: str, found: dict[str, dict[str, Any]]) -> None:
    """Prints one table for each set of sampling settings."""
    for way, tasks in found.items():
        table = Table("task", "rows", "samples", "average", "pass@k", "no verdict", title=f"{model}{', ' if way else ''}{way}")
        for task, each in tasks.items():
            passes = ", ".join(f"@{k} {one.mean:.3f} ± {one.interval:.3f}" for k, one in each.passes.items() if k > 1)
            average = f"{each.average.mean:.3f} ± {each.average.interval:.3f}"
            table.add_row(task, str(each.average.rows), str(each.samples), average, passes, str(each.failed))
        Console().print(table)


def print_end(config: Config, summary: dict[str, Any]) -> None:
    """Prints a run's table, what to do for each task that did not rise, and where the run is."""
    console = Console()
    if summary["tasks"]:
        _print_rises(console, config, summary)
    else:
        console.print("Nothing was evaluated: no task of the mixture names eval_rows.")
    for each in summary.get("rollbacks", ()):
        console.print(f"The run went back from step {each['called_at']} to {each['to_step']}: {'; '.join(each['sentences'])}")
    console.print(f"The run is in {config.folder}: metrics.jsonl, rollouts.jsonl, summary.json, checkpoints/, model/")
    console.print(f"See it: vlrl report {config.folder}")


def _print_rises(console: Console, config: Config, summary: dict[str, Any]) -> None:
    table = Table("task", "before", "after", "rise", title=f"{config.name}: held-out accuracy ± 95 % interval")
    number: Callable[[float], str] = "{:.3f}".format
    failing = any(values["failed_before"] or values["failed_after"] for values in summary["tasks"].values())
    if failing:
        table.add_column("no verdict, before and after")
    for task, values in summary["tasks"].items():
        cells = [f"{number(values[at])} ± {number(values[f'{at}_interval'])}" for at in ("before", "after")]
        rise, interval = _rise(values)
        failed = [f"{values['failed_before']} and {values['failed_after']}"] if failing else []
        table.add_row(task, *cells, f"{rise:+.3f} ± {number(interval)}", *failed)
    mean = summary["mean"]
    table.add_section()
    table.add_row("mean", number(mean["before"]), number(mean["after"]), f"{mean['after'] - mean['before']:+.3f}")
    console.print(table)
    for sentence in without_a_rise(config, summary["tasks"]):
        console.print(sentence, markup=False)
    if failing:
        console.print(
            "Rollouts without a verdict count in no average, which is too high if they were wrong; rollouts.jsonl has the "
            "reason for each"
        )

"""The pictures of a model card: the reward and the held-out accuracy of each task, as PNG files.

Equal runs give equal bytes, so that a second push uploads no picture again.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlrl.hub.finished import FinishedRun
from vlrl.report.draw import COLOURS, series, smooth, window
from vlrl.report.read import Line

REWARD, EVALUATION = "reward.png", "evaluation.png"
_COLUMNS, _WIDTH_IN, _HEIGHT_IN, _DPI = 3, 3.4, 2.3, 110


def write_curves(run: FinishedRun, folder: Path) -> list[str]:
    """Writes a picture of each kind for which the run has numbers; returns their names."""
    written = []
    trained = [task for task in run.config.mixture if any(f"reward/{task}" in line for line in run.metrics)]
    if trained:
        figure = _grid(trained)
        for axes, task in zip(figure.axes, trained, strict=True):
            _draw_reward(axes, run.metrics, f"reward/{task}")
        written.append(_save(figure, folder / REWARD))
    if evaluated := run.summary["tasks"]:
        figure = _grid(list(evaluated))
        for axes, (task, values) in zip(figure.axes, evaluated.items(), strict=True):
            _draw_evaluation(axes, list(_evaluations(run, task, values)))
        written.append(_save(figure, folder / EVALUATION))
    return written


def _grid(titles: list[str]) -> Any:
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(titles))
    rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(columns * _WIDTH_IN, rows * _HEIGHT_IN), layout="constrained")
    for place, title in enumerate(titles):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", integer=True)
        if place + columns >= len(titles):
            axes.set_xlabel("step", fontsize=8)
    return figure


def _draw_reward(axes: Any, lines: list[Line], name: str) -> None:
    """Each step's mean reward as a faint point, and their moving average."""
    known = [line for line in lines if isinstance(line.get(name), int | float)]
    steps, values = [line["step"] for line in known], series(known, name)
    if window(len(values)) > 1:
        axes.plot(steps, values, ".", color=COLOURS[0], alpha=0.3, markersize=3)
    axes.plot(steps, smooth(values), color=COLOURS[0])


def _draw_evaluation(axes: Any, points: list[tuple[int, float, float]]) -> None:
    """Accuracy by step; the 95 % intervals are known before and after the run."""
    steps, means, intervals = zip(*points, strict=True)
    axes.errorbar(steps, means, yerr=intervals, color=COLOURS[1], marker="o", markersize=4, capsize=3)
    axes.set_ylim(bottom=min(0.0, *means))


def _evaluations(run: FinishedRun, task: str, values: dict[str, float]) -> Iterator[tuple[int, float, float]]:
    """Step, mean and half width of the interval; 0 for an evaluation between, whose interval is not kept."""
    yield 0, float(values["before"]), _half(values["before_interval"])
    for line in run.metrics:
        if isinstance(line.get(f"eval/{task}"), int | float) and line["step"] < run.summary["steps"]:
            yield line["step"], line[f"eval/{task}"], 0.0
    yield run.summary["steps"], float(values["after"]), _half(values["after_interval"])


def _half(interval: float | str) -> float:
    """The interval, or 0 if it is nan, as for a single row."""
    return float(interval) if math.isfinite(float(interval)) else 0.0


def _save(figure: Any, path: Path) -> str:
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    return path.name

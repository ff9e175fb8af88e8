"""A study's page: its table, and overlaid curves of its arms, each the mean over the arm's seeds."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vlrl.algorithm.diagnostics import LOG_RATIO_EDGES, VARIANCE_EDGES, add_histograms
from vlrl.common.jsonl import write_atomically
from vlrl.report.charts import gates
from vlrl.report.draw import COLOURS, PERCENT, add_band, grid, plotted, rendered, series, smooth, styled
from vlrl.report.read import Steps
from vlrl.stats import estimate
from vlrl.telemetry.metrics import read_key

Arms = Mapping[str, Sequence[Steps]]
"""The steps of each seed's run, by arm."""


def write_study(out: Path, title: str, rows: Sequence[Sequence[str]], arms: Arms) -> None:
    """Writes the page. rows: the table's rows, the header first."""
    figures = {
        "Reward": curves(arms, "reward/mean", "mean reward"),
        "Held-out accuracy": curves(arms, "eval/mean", "mean held-out accuracy", smoothed=False),
        "Gate": gate(arms),
        "Ratios and variances": histograms(arms),
        "The gates": gates(),
    }
    shown = {name: figure for name, figure in figures.items() if figure.data}
    write_atomically(out, [rendered("study.html", title=title, rows=rows, names=list(shown), figures=plotted(shown))])


def curves(arms: Arms, metric: str, title: str, *, smoothed: bool = True) -> go.Figure:
    """A metric's mean over each arm's seeds, by step, with the 95 % interval over seeds."""
    figure = grid([title])
    for number, (arm, runs) in enumerate(arms.items()):
        _add_mean(figure, 0, number, arm, runs, metric, legend=True, smoothed=smoothed)
    return figure.update_layout(height=420)


def gate(arms: Arms) -> go.Figure:
    """The gate weights in the last mini-batch, and the distance of the policy from the step's old policy."""
    metrics = {
        "gate_weight_pos": "mean gate weight, advantage above 0",
        "gate_weight_neg": "mean gate weight, advantage below 0",
        "ess": "effective sample size",
        "kl": "KL to π_old",
    }
    figure = grid(list(metrics.values()))
    for number, (arm, runs) in enumerate(arms.items()):
        for place, name in enumerate(metrics):
            _add_mean(figure, place, number, arm, runs, f"policy/{name}/minibatch_{_last(runs)}", legend=place == 0)
    return figure


def histograms(arms: Arms) -> go.Figure:
    """The ratios of tokens and the variances of log r of sequences, in the last mini-batches of all seeds."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=["ratio to π_old", "variance of log r within a response"])
    for number, (arm, runs) in enumerate(arms.items()):
        counts = add_histograms(
            {key: bins for key, bins in line.items() if key != "step"} for run in runs for line in run.histograms
        )
        for column, (kind, edges) in enumerate((("log_ratio", LOG_RATIO_EDGES), ("log_ratio_var", VARIANCE_EDGES)), start=1):
            signs = [counts.get(f"{kind}/{sign}/minibatch_{_last(runs)}", [0] * (len(edges) + 1)) for sign in ("pos", "neg")]
            bins = [pos + neg for pos, neg in zip(*signs, strict=True)][1:-1]
            figure.add_scatter(
                x=[math.exp(edge) for edge in edges[1:]] if kind == "log_ratio" else edges[1:],
                y=[count / (sum(bins) or 1) for count in bins],
                name=arm,
                line={"shape": "hvh", "color": COLOURS[number % len(COLOURS)]},
                showlegend=column == 1,
                row=1,
                col=column,
            )
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log", row=1, col=1)  # nearly all tokens are in the bins next to 1
    figure.update_yaxes(tickformat=PERCENT)
    return styled(figure, 360)


def _add_mean(
    figure: go.Figure,
    place: int,
    number: int,
    arm: str,
    runs: Sequence[Steps],
    metric: str,
    *,
    legend: bool,
    smoothed: bool = True,
) -> None:
    """Draws an arm's mean up to the end of its shortest run, since later steps lack an interval over all seeds.

    Leaves out steps at which no run has the metric.
    """
    by_step = list(zip(*(series(run.metrics, metric) for run in runs), strict=False))
    known = {step: [value for value in values if value is not None] for step, values in enumerate(by_step, start=1)}
    found = {step: estimate(values) for step, values in known.items() if values}
    if found:
        shape = smooth if smoothed else list
        mean, half = shape([each.mean for each in found.values()]), shape([each.interval for each in found.values()])
        add_band(figure, place, list(found), mean, half, COLOURS[number % len(COLOURS)], arm, legend=legend)


def _last(runs: Sequence[Steps]) -> int:
    """The number of the runs' last mini-batch."""
    keys = (read_key(name) for run in runs for name in run.metrics[-1])
    return max((key.minibatch for key in keys if key.name == "policy/entropy"), default=1)

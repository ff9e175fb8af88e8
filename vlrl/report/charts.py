"""A run's figures, drawn with plotly. Several runs are overlaid, each in its own colour."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from vlrl.algorithm.diagnostics import LOG_RATIO_EDGES, VARIANCE_EDGES, add_histograms, gate_weight
from vlrl.algorithm.gates import Gate, grpo, gspo_token, sapo
from vlrl.algorithm.loss import LossTokens
from vlrl.report.draw import (
    COLOURS,
    PERCENT,
    add_band,
    add_left_behind,
    add_line,
    add_points,
    add_raw,
    grid,
    known,
    series,
    smooth,
    styled,
    window,
)
from vlrl.report.read import RunData
from vlrl.telemetry.metrics import read_key

_FINE = {"width": 1}
_MOST_PARTS = 7  # the largest parts of a step's time; the others are too small to see and are drawn as their sum


def reward(runs: Sequence[RunData]) -> go.Figure:
    """Each task's reward by step as points, its moving average, and the 95 % interval over groups, averaged in the same way."""
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    figure = grid(tasks)
    for number, run in enumerate(runs):
        for place, task in enumerate(tasks):
            found = run.rewards.get(task, {})
            steps = sorted(found)
            values, colour = [found[step].mean for step in steps], COLOURS[number % len(COLOURS)]
            averaged = math.sqrt(window(len(steps)))
            half = [value and value / averaged for value in smooth([found[step].interval for step in steps])]
            add_raw(figure, place, steps, values, colour, run.name)
            add_band(figure, place, steps, smooth(values), half, colour, run.name, legend=place == 0 and len(runs) > 1)
            add_left_behind(figure, place, run, f"reward/{task}", number)
    means = [found.mean for run in runs for steps in run.rewards.values() for found in steps.values()]
    figure.update_yaxes(range=[min([0.0, *means]) - 0.02, max([1.0, *means]) + 0.02])  # a composed reward may leave 0 to 1
    return figure


def heldout(runs: Sequence[RunData]) -> go.Figure:
    """Held-out accuracy by task, at the steps with an evaluation."""
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    figure = grid(tasks)
    for number, run in enumerate(runs):
        for place, task in enumerate(tasks):
            add_points(figure, place, run, f"eval/{task}", number, legend=place == 0 and len(runs) > 1)
    return figure


def lengths(runs: Sequence[RunData]) -> go.Figure:
    """The mean number of tokens in a response, by task."""
    return _by_task(runs, lambda task: f"rollout/tokens/{task}")


def mixture(runs: Sequence[RunData]) -> go.Figure:
    """Each task's share of the prompts: what the run file asks for, and what was drawn."""
    figure = go.Figure()
    for place, run in enumerate(runs):
        colours = (COLOURS[place % len(COLOURS)], "lightgrey") if len(runs) > 1 else (COLOURS[5], COLOURS[0])
        asked = [mix.weight for mix in run.config.mixture.values()]
        drawn = [float(sum(each.rows for each in run.rewards.get(task, {}).values())) for task in run.tasks]
        for kind, counts, colour in zip(("asked", "drawn and scored"), (asked, drawn), colours, strict=True):
            shares = [count / (sum(counts) or 1) for count in counts]
            name = f"{run.name}, {kind}" if len(runs) > 1 else kind
            figure.add_bar(x=run.tasks, y=shares, name=name, marker_color=colour)
    figure.update_yaxes(tickformat=PERCENT, rangemode="tozero")
    return styled(figure, 300)


def gate(run: RunData) -> go.Figure:
    """By mini-batch: gate weights by sign of the advantage, share of tokens with a weight below ½, middle 98 % of the ratios."""
    minibatches = range(1, run.config.algorithm.minibatches + 1)
    titles = ["mean gate weight", "tokens with a weight below ½", "ratio, 1 % to 99 %", "effective sample size"]
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, vertical_spacing=0.16, horizontal_spacing=0.08)
    steps = [line["step"] for line in run.metrics]
    for number in minibatches:
        colour = COLOURS[(number - 1) % len(COLOURS)]
        for sign, dash in (("pos", "solid"), ("neg", "dot")):
            values = series(run.metrics, f"policy/gate_weight_{sign}/minibatch_{number}")
            name = f"mini-batch {number}, advantage {'above' if sign == 'pos' else 'below'} 0"
            figure.add_scatter(x=steps, y=smooth(values), name=name, line={"color": colour, "dash": dash}, row=1, col=1)
        for name, row, col in (("gate_weight_below_half", 1, 2), ("ess", 2, 2)):
            values = series(run.metrics, f"policy/{name}/minibatch_{number}")
            line = {"color": colour}
            figure.add_scatter(
                x=steps, y=smooth(values), name=f"mini-batch {number}", line=line, showlegend=False, row=row, col=col
            )
        for percent in ("01", "50", "99"):
            values = series(run.metrics, f"policy/ratio_p{percent}/minibatch_{number}")
            width: dict[str, Any] = {"width": 2 if percent == "50" else 1}
            name = f"mini-batch {number}, {int(percent)} %"
            figure.add_scatter(
                x=steps, y=smooth(values), name=name, line=width | {"color": colour}, showlegend=False, row=2, col=1
            )
    return styled(figure, 560)


def distance(runs: Sequence[RunData]) -> go.Figure:
    """How far the policy moved within a step and how far the engine is from it; the entropy; the gradient norm."""
    figure = grid(["entropy of the policy", "KL to π_old, last mini-batch", "KL to the engine", "gradient norm"])
    for number, run in enumerate(runs):
        last = f"minibatch_{run.config.algorithm.minibatches}"
        names = ["policy/entropy/minibatch_1", f"policy/kl/{last}", "engine/kl/minibatch_1", f"policy/grad_norm/{last}"]
        for place, name in enumerate(names):
            add_line(figure, place, run, name, number, legend=place == 0 and len(runs) > 1)
    return figure


def changes(run: RunData) -> go.Figure:
    """How far the step's last update moved each part of the model, as a share of its weights' norm."""
    keys, last = {name: read_key(name, run.tasks) for name in run.metrics[-1]}, run.config.algorithm.minibatches
    parts = {name: key.part for name, key in keys.items() if key.name == "policy/change" and key.minibatch == last}
    figure = go.Figure()
    steps = [line["step"] for line in run.metrics]
    for number, (name, part) in enumerate(parts.items()):
        figure.add_scatter(x=steps, y=smooth(series(run.metrics, name)), name=part, line={"color": COLOURS[number]})
    figure.update_yaxes(type="log", exponentformat="power")
    return styled(figure, 320)


def bound(run: RunData) -> go.Figure:
    """The gap between the mean of a sequence's gates and the gate of its mean, with the bound (τ²/4)·Var (SAPO, section 4)."""
    last = f"minibatch_{run.config.algorithm.minibatches}"
    steps = [line["step"] for line in run.metrics]
    figure = make_subplots(rows=1, cols=2, subplot_titles=["gap, and its bound", "sequences in which both assumptions hold"])
    for place, (name, label) in enumerate((("gate_gap", "gap"), ("gate_bound", "bound"))):
        values = smooth(series(run.metrics, f"policy/{name}/{last}"))
        figure.add_scatter(x=steps, y=values, name=label, line={"color": COLOURS[place]}, row=1, col=1)
    values = smooth(series(run.metrics, f"policy/assumptions_hold/{last}"))
    figure.add_scatter(x=steps, y=values, name="share", line={"color": COLOURS[2]}, showlegend=False, row=1, col=2)
    figure.update_yaxes(type="log", row=1, col=1)
    figure.update_yaxes(tickformat=".0%", range=[-0.02, 1.02], row=1, col=2)
    return styled(figure, 320)


def histograms(run: RunData) -> go.Figure:
    """Histograms of token ratios and of sequences' variance of log r, in the last mini-batches, by sign of the advantage."""
    last = f"minibatch_{run.config.algorithm.minibatches}"
    counts = add_histograms({name: bins for name, bins in line.items() if name != "step"} for line in run.histograms)
    figure = make_subplots(rows=1, cols=2, subplot_titles=["ratio to π_old", "variance of log r within a response"])
    for place, (kind, edges, unit) in enumerate(
        (("log_ratio", LOG_RATIO_EDGES, math.exp), ("log_ratio_var", VARIANCE_EDGES, float)), start=1
    ):
        for number, sign in enumerate(("pos", "neg")):
            bins = counts.get(f"{kind}/{sign}/{last}", [0] * (len(edges) + 1))[1:-1]
            total = sum(bins) or 1
            label = f"advantage {'above' if sign == 'pos' else 'below'} 0"
            figure.add_scatter(
                x=[unit(edge) for edge in edges[1:]],
                y=[count / total for count in bins],
                name=label,
                line={"shape": "hvh", "color": COLOURS[number]},
                fill="tozeroy",
                showlegend=place == 1,
                row=1,
                col=place,
            )
    figure.update_xaxes(type="log", row=1, col=2)
    figure.update_xaxes(range=[0.7, 1.3], row=1, col=1)
    figure.update_yaxes(type="log", row=1, col=1)  # nearly all tokens are in the bins next to 1
    figure.update_yaxes(tickformat=PERCENT)
    return styled(figure, 320)


def gates(tau_pos: float = 1.0, tau_neg: float = 1.05) -> go.Figure:
    """SAPO's gate compared with the others: the gate and its gradient weight as functions of the ratio (SAPO, figure 1)."""
    curves: dict[str, Gate] = {
        f"SAPO, τ {tau_pos:g} and {tau_neg:g}": sapo(tau_pos, tau_neg),
        "GRPO": grpo(0.2, 0.27),
        "GSPO, of a sequence's ratio": gspo_token(3e-4, 4e-4),
    }
    titles = [f"{what}, advantage {sign} 0" for what in ("gate", "gradient weight") for sign in ("above", "below")]
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, vertical_spacing=0.16, horizontal_spacing=0.08)
    ratio = torch.linspace(0.02, 2.5, 249)
    for number, (name, each) in enumerate(curves.items()):
        for column, advantage in enumerate((1.0, -1.0), start=1):
            tokens = LossTokens(
                log_ratio=ratio.log(),
                engine_log_ratio=torch.zeros_like(ratio),
                advantages=torch.full_like(ratio, advantage),
                sequence=torch.arange(len(ratio)),
            )
            value = each(tokens.log_ratio, tokens.advantages, tokens.sequence, len(ratio)) * advantage
            for row, values in enumerate((value, gate_weight(tokens, each)), start=1):
                figure.add_scatter(
                    x=ratio.tolist(),
                    y=values.tolist(),
                    name=name,
                    line={"color": COLOURS[number]},
                    showlegend=row == column == 1,
                    row=row,
                    col=column,
                )
    figure.update_xaxes(title_text="ratio", row=2)
    return styled(figure, 560)


def step_time(run: RunData) -> go.Figure:
    """Seconds of a step, stacked by part: the largest parts, and the sum of the others.

    Of a run that samples beside the training, a dotted line above them is what the step would take if it sampled by itself.
    """
    figure = go.Figure()
    steps = [line["step"] for line in run.metrics]
    for number, (name, values) in enumerate(_time_parts(run).items()):
        line = _FINE | {"color": COLOURS[number]}
        figure.add_scatter(x=steps, y=smooth(values), name=name, stackgroup="time", line=line)
    if alone := _without_overlap(run):
        line = _FINE | {"color": "black", "dash": "dot"}
        figure.add_scatter(x=steps[: len(alone)], y=smooth(alone), name="without sampling beside the step", line=line)
    figure.update_yaxes(ticksuffix=" s", rangemode="tozero")
    return styled(figure, 320)


def _without_overlap(run: RunData) -> list[float | None]:
    """Seconds by step, with what was sampled beside it in them and without the wait for that. Empty if nothing was."""
    alone: list[float | None] = []
    for line, following in pairwise(run.metrics):  # what is sampled beside a step is logged with the next one
        beside = [value for name, value in following.items() if name.startswith("ahead/")]
        if beside and line.get("time/step") is not None:
            alone.append(line["time/step"] + sum(beside) - line.get("time/sampling_ahead", 0.0))
        else:
            alone.append(None)
    return alone if any(alone) else []


def _time_parts(run: RunData) -> dict[str, list[float | None]]:
    """Seconds by step of the largest parts, in the order of the step, then of all the others together."""
    keys = {name: read_key(name, run.tasks) for name in run.metrics[-1]}
    names = [name for name, key in keys.items() if key.family == "time" and key.label != "step"]
    largest = sorted(names, key=lambda name: sum(known(run.metrics, name)), reverse=True)[:_MOST_PARTS]
    parts = {keys[name].label: series(run.metrics, name) for name in names if name in largest}
    if others := [name for name in names if name not in largest]:
        parts["others"] = [sum(value for name in others for value in known([line], name)) for line in run.metrics]
    return parts


def scoring(runs: Sequence[RunData]) -> go.Figure:
    """The 99th percentile of the scoring time, by task."""
    figure = _by_task(runs, lambda task: f"scoring/p99_s/{task}")
    figure.update_yaxes(ticksuffix=" s", rangemode="tozero")
    return figure


def _by_task(runs: Sequence[RunData], name: Callable[[str], str]) -> go.Figure:
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    figure = grid(tasks)
    for number, run in enumerate(runs):
        for place, task in enumerate(tasks):
            add_line(figure, place, run, name(task), number, legend=place == 0 and len(runs) > 1)
    return figure

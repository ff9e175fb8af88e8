"""Helpers that all figures share: colours, grids, lines, bands and moving averages."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from vlrl.report.read import Line, RunData

COLOURS = (
    *("#2f5d8a", "#c2573a", "#3b8c6e", "#8a5fa8", "#b8952e", "#5b6577", "#4aa3c7", "#a8456b"),
    *("#1f3350", "#e89b7e", "#8fc9ae", "#c6a9dc", "#6b5410", "#b4bcc9", "#0f6b86", "#e295b4"),
)
PERCENT = ".3~p"  # three digits, however small: 0.001 % is not 0 %
_NARROWEST = 0.05  # the smallest span of an axis, as a share of its largest value: below that, noise would look like a trend
_MOST, _PART = 9, 4  # the moving average covers at most _MOST steps and at most one part in _PART of the run


def grid(titles: Sequence[str]) -> go.Figure:
    """Empty cells with titles, up to three in a row."""
    columns = min(3, len(titles)) if len(titles) != 4 else 2
    rows = math.ceil(len(titles) / columns)
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, vertical_spacing=0.3 / rows, horizontal_spacing=0.06)
    return styled(figure, 70 + 230 * rows)


def _cell(figure: go.Figure, place: int) -> dict[str, int]:
    columns = len(figure._grid_ref[0])
    return {"row": place // columns + 1, "col": place % columns + 1}


def add_line(figure: go.Figure, place: int, run: RunData, metric: str, number: int, *, legend: bool) -> None:
    """Draws a run's metric in the grid's cell `place`, as points and as a moving average. number: picks the colour."""
    steps, values = [line["step"] for line in run.metrics], series(run.metrics, metric)
    colour = COLOURS[number % len(COLOURS)]
    add_raw(figure, place, steps, values, colour, run.name)
    figure.add_scatter(
        x=steps,
        y=smooth(values),
        name=run.name,
        legendgroup=run.name,
        showlegend=legend,
        line={"color": colour},
        mode="lines",
        **_cell(figure, place),
    )
    add_left_behind(figure, place, run, metric, number)


def add_left_behind(figure: go.Figure, place: int, run: RunData, metric: str, number: int) -> None:
    """For each rollback, draws the metric's abandoned steps as a faint line, and a dotted line at the step it returned to."""
    for each in run.left_behind:
        start = each.rollback.to_step
        lines = [line for line in run.metrics if line["step"] <= start] + each.metrics
        course = zip([line["step"] for line in lines], smooth(series(lines, metric)), strict=True)
        shown = [(step, value) for step, value in course if step >= start]
        figure.add_scatter(
            x=[step for step, _ in shown],
            y=[value for _, value in shown],
            name=f"{run.name}, left at step {each.rollback.called_at}",
            legendgroup=run.name,
            showlegend=False,
            mode="lines",
            line={"color": COLOURS[number % len(COLOURS)], "width": 1.5},
            opacity=0.4,
            **_cell(figure, place),
        )
        figure.add_vline(x=start, line={"color": "grey", "width": 1, "dash": "dot"}, **_cell(figure, place))


def add_raw(figure: go.Figure, place: int, steps: Sequence[int], values: Sequence[float | None], colour: str, name: str) -> None:
    """Draws each step's value as a faint point in the grid's cell `place`, unless the line is not averaged."""
    if window(len(values)) > 1:
        look = {"mode": "markers", "marker": {"color": colour, "size": 3, "opacity": 0.4}, "hoverinfo": "skip"}
        figure.add_scatter(x=steps, y=values, legendgroup=name, showlegend=False, **look, **_cell(figure, place))


def add_points(figure: go.Figure, place: int, run: RunData, metric: str, number: int, *, legend: bool) -> None:
    """Draws a metric in the grid's cell `place` at the steps that have it, without averaging."""
    found = {
        line["step"]: value for line, value in zip(run.metrics, series(run.metrics, metric), strict=True) if value is not None
    }
    look = {"mode": "lines+markers", "line": {"color": COLOURS[number % len(COLOURS)]}}
    where = _cell(figure, place)
    figure.add_scatter(
        x=list(found), y=list(found.values()), name=run.name, legendgroup=run.name, showlegend=legend, **look, **where
    )


def add_band(
    figure: go.Figure, place: int, x: list[int], mean: list, half: list, colour: str, name: str, *, legend: bool
) -> None:
    """Draws a mean with a band of `half` on either side, in the grid's cell `place`."""
    shared = {
        "legendgroup": name,
        "hoverinfo": "skip",
        "showlegend": False,
        "mode": "lines",
        "line": {"width": 0, "color": colour},
    }
    low = [None if m is None or h is None else m - h for m, h in zip(mean, half, strict=True)]
    high = [None if m is None or h is None else m + h for m, h in zip(mean, half, strict=True)]
    where = _cell(figure, place)
    figure.add_scatter(x=x, y=low, **shared, **where)
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    figure.add_scatter(x=x, y=high, fill="tonexty", fillcolor=f"rgba({red}, {green}, {blue}, 0.15)", **shared, **where)
    figure.add_scatter(x=x, y=mean, name=name, legendgroup=name, showlegend=legend, line={"color": colour}, mode="lines", **where)


def series(lines: Sequence[Line], name: str) -> list[float | None]:
    """A metric by step; None if it is missing or not a number."""
    return [value if isinstance(value := line.get(name), int | float) else None for line in lines]


def known(lines: Sequence[Line], name: str) -> list[float]:
    """A metric's values at the steps that have it."""
    return [value for value in series(lines, name) if value is not None]


def window(num_steps: int) -> int:
    """The window of the moving average, in steps: an odd number, at most nine and at most a quarter of the run.

    >>> [window(steps) for steps in (8, 12, 20, 200)]
    [1, 3, 5, 9]
    """
    return min(_MOST, max(1, (num_steps // _PART - 1) // 2 * 2 + 1))


def smooth(values: Sequence[float | None]) -> list[float | None]:
    """The moving average of the values, ignoring missing ones."""
    smooth: list[float | None] = []
    reach = window(len(values)) // 2
    for place in range(len(values)):
        near = values[max(0, place - reach) : place + reach + 1]
        known = [value for value in near if value is not None and math.isfinite(value)]
        smooth.append(sum(known) / len(known) if known else None)
    return smooth


def styled(figure: go.Figure, height: int) -> go.Figure:
    """Applies the report's font, colours and margins to the figure. height: in pixels."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 48, "r": 16, "t": 40, "b": 40},
        legend={"orientation": "h", "y": -0.12, "yanchor": "top"},
        font={"family": "system-ui, sans-serif", "size": 13},
        hovermode="x unified",
        uirevision="kept",  # a figure that is drawn again keeps what the reader zoomed into
    )
    plain = {"exponentformat": "power", "minexponent": 4}  # 0.0006 and 1.5×10⁻¹³, not 600μ and 150f
    figure.update_xaxes(**plain)
    figure.update_yaxes(**plain)
    figure.update_annotations(font_size=13)
    return figure


def widen(figure: go.Figure) -> None:
    """Widens y axes that would fit their values too closely, so that noise does not look like a trend."""
    values: dict[str, list[float]] = {}
    for trace in figure.data:
        found = values.setdefault(trace.yaxis or "y", [])
        found += [float(y) for y in trace.y if y is not None and math.isfinite(y)]
    for name, found in values.items():
        axis = figure.layout[name.replace("y", "yaxis", 1)]
        if axis.range is None and axis.rangemode is None and found:
            if axis.type == "log":
                _widen_log(axis, [math.log10(value) for value in found if value > 0])
            else:
                axis.range = _range(min(found), max(found))


def _range(low: float, high: float) -> tuple[float, float] | None:
    """A wider range for an axis, or None if plotly's own is wide enough.

    >>> _range(100.0, 100.0), _range(100.0, 110.0)
    ((97.25, 102.75), None)
    """
    least, centre = _NARROWEST * max(abs(low), abs(high)), (low + high) / 2
    half = 0.55 * least  # the points at either end are inside
    return (centre - half, centre + half) if high - low < least else None


def _widen_log(axis: Any, powers: Sequence[float]) -> None:
    """Widens a log axis to at least a power of ten, so that one is among the ticks; a short axis has ticks at 1, 2 and 5."""
    if powers and max(powers) - min(powers) < 2:
        low, high = min(powers), max(powers)
        missing = max(0.1, 1 - (high - low))
        axis.update(range=(low - missing / 2, high + missing / 2), dtick="D2")


def plotted(figures: Mapping[str, go.Figure]) -> Markup:
    """The figures as JSON by the names of the elements that show them, for the page's scripts."""
    for figure in figures.values():
        widen(figure)
    return safe("{" + ",".join(f"{json.dumps(name)}:{figure.to_json()}" for name, figure in figures.items()) + "}")


def safe(text: str) -> Markup:
    """JSON that is safe in a script element: no text in it can close the element."""
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def rendered(template: str, *, live: bool = False, **values: Any) -> str:
    """Renders a template of this folder with style and scripts included. live: the page's server has plotly and its data."""
    pages = Environment(autoescape=True, loader=PackageLoader("vlrl", "report"))
    pages.globals["included"] = lambda name: Markup((files("vlrl.report") / name).read_text())
    plotly = "" if live else Markup(get_plotlyjs())  # so that a page on a disk needs no network
    return pages.get_template(template).render(plotly=plotly, live=live, **values)

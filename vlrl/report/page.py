"""A report: one self-contained HTML file, which opens from disk without a network.

Plotly draws the figures. The page holds the rollouts as JSON and their images as data URIs.
"""

import base64
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from markupsafe import Markup

from vlrl.common.jsonl import write_atomically
from vlrl.common.task_settings import RewardConfig
from vlrl.data.images import open_image
from vlrl.report import charts
from vlrl.report.draw import known, plotted, rendered, safe, window
from vlrl.report.read import Line, RunData, read_run
from vlrl.run_file import dump_config
from vlrl.tasks import parts_of

MOST_IMAGES, IMAGE_SIDE = 600, 320
MOST_CHARACTERS = 6_000  # of a response in the browser


def write_report(folders: Sequence[Path], out: Path) -> int:
    """Writes the report of one or several runs, and returns its size in bytes. Raises ValueError if a folder is not a run's."""
    text = report([read_run(folder) for folder in folders])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, [text])
    return len(text.encode())


def report(runs: Sequence[RunData]) -> str:
    """The page's HTML, complete in itself."""
    images: list[dict[str, int]] = [{} for _ in runs]
    browser = {
        "runs": [
            {
                "name": run.name,
                "tasks": run.tasks,
                "groups": [browsed(run, group, refs, most=MOST_IMAGES) for group in run.groups],
                "images": [_data_uri(ref) for ref in refs],
                "of": run.num_rollouts,
            }
            for run, refs in zip(runs, images, strict=True)
        ]
    }
    values, figures = parts_of_page(runs)
    return page_of(runs, browser, values, figures)


def page_of(
    runs: Sequence[RunData],
    browser: Mapping[str, Any],
    values: Mapping[str, Any],
    figures: Markup,
    *,
    live: bool = False,
    title: str = "",
) -> str:
    """The page's HTML. browser: the data of page.js; values, figures: of `parts_of_page`; live: a server keeps it up to date."""
    settings = [(run.name, dump_config(run.config)) for run in runs]
    title = title or ", ".join(run.name for run in runs)
    return rendered("page.html", live=live, title=title, settings=settings, browser=_json(browser), figures=figures, **values)


def parts_of_page(runs: Sequence[RunData]) -> tuple[dict[str, Any], Markup]:
    """What grows while a run trains: the values of sections.html and nav.html, and the figures as JSON by name."""
    sections = _sections(runs)
    figures = {name: figure for section in sections for _, name, figure in section["figures"]}
    values = {
        "runs": runs,
        "tiles": [tile for run in runs for tile in _tiles(run)] if len(runs) == 1 else [],
        "sections": sections,
        "rollbacks": [(run.name, [each.rollback for each in run.left_behind]) for run in runs if run.left_behind],
        "evaluations": [(run.name, _evaluation(run)) for run in runs if run.summary],
    }
    return values, plotted(figures)


def _sections(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """The page's sections: title, description and figures. A figure that shows a single run is drawn once for each run."""
    if not any(run.metrics for run in runs):
        return []

    def each(draw: Callable[[RunData], go.Figure]) -> list[tuple[str, go.Figure]]:
        return [(run.name if len(runs) > 1 else "", draw(run)) for run in runs if run.metrics]

    longest = max(len(run.metrics) for run in runs)
    average, lines = _average(longest), _average(longest, points=False)
    taus = runs[0].config.algorithm.tau_pos, runs[0].config.algorithm.tau_neg
    return [
        _section(
            "Reward",
            f"{average} The band is the 95 % interval over groups.{_composed(runs)}",
            [("", charts.reward(runs))],
        ),
        *(
            [_section("Held-out accuracy by step", "", [("", charts.heldout(runs))])]
            if any("eval/mean" in line for run in runs for line in run.metrics)
            else []
        ),
        _section("Response length", f"Tokens of a response. {average}", [("", charts.lengths(runs))]),
        _section("Mixture", "Each task's share of the prompts.", [("", charts.mixture(runs))]),
        _section(
            "Gate",
            f"The gate weight is the share of a token's gradient that the gate keeps. It is 1 while the ratio is 1. {lines}",
            each(charts.gate),
        ),
        _section("Ratios and variances", "The last mini-batch of each step, over the whole run.", each(charts.histograms)),
        _section(
            "Change of the weights",
            f"How far an update moves each part of the model, as a share of that part's norm. {lines}",
            each(charts.changes),
        ),
        _section("Distances", average, [("", charts.distance(runs))]),
        *(
            [
                _section(
                    "SAPO's sequence view",
                    f"The mean of a response's gates, compared with the gate of its mean ratio. {lines}",
                    each(charts.bound),
                )
            ]
            if all(run.config.algorithm.gate == "sapo" for run in runs)
            else []
        ),
        _section(
            "The gates",
            "SAPO with this run's settings, compared with GRPO and GSPO.",
            [("", charts.gates(*taus))],
        ),
        _section(
            "Where a step's time goes",
            f"“others” is the sum of the small parts; metrics.jsonl lists each of them. {lines}",
            each(charts.step_time),
        ),
        _section(
            "Scoring time",
            f"The 99th percentile of the time to score a response, by task. {average}",
            [("", charts.scoring(runs))],
        ),
    ]


def _average(num_steps: int, *, points: bool = True) -> str:
    """A sentence that says what the lines and the points show."""
    steps = window(num_steps)
    if steps == 1:
        return "Each step without averaging."
    shown = "Points are single steps, lines their moving average" if points else "Lines are moving averages"
    return f"{shown} over {steps} steps."


def _section(title: str, about: str, figures: list[tuple[str, go.Figure]]) -> dict[str, Any]:
    """figures: each with its heading, which is empty for a figure of all runs."""
    own = title.lower().replace(" ", "-").replace("'", "")
    named = [(heading, f"{own}-{number}", figure) for number, (heading, figure) in enumerate(figures)]
    return {"id": own, "title": title, "about": about, "figures": named}


def _tiles(run: RunData) -> list[tuple[str, str]]:
    """The key figures at the top of the page."""
    last = run.metrics[-1] if run.metrics else {}
    tiles = [("step", f"{last.get('step', 0)} of {run.config.steps}"), ("rollouts", f"{run.num_rollouts:,}")]
    if run.metrics:
        steps = min(max(5, len(run.metrics) // 10), max(1, len(run.metrics) // 2))  # one step alone is noise
        means = [fmean(known(lines, "reward/mean") or [math.nan]) for lines in (run.metrics[:steps], run.metrics[-steps:])]
        which = f"means of the first and the last {steps} steps" if steps > 1 else "first and last step"
        tiles.append((f"reward, {which}", f"{means[0]:.3f} → {means[1]:.3f}"))
        tiles.append(("seconds a step", f"{fmean(known(run.metrics, 'time/step')):.1f}"))
        tiles.append(("without a verdict", _without_verdict(run)))
    if run.summary and (mean := run.summary["mean"]):
        tiles.insert(0, ("held-out accuracy", f"{mean['before']:.3f} → {mean['after']:.3f}"))
    return tiles


def _composed(runs: Sequence[RunData]) -> str:
    """A sentence that names the tasks whose training reward is a weighted sum of parts, and so is not their accuracy."""
    texts = [
        f"{f'{run.name}, ' if len(runs) > 1 else ''}{task}: {formula}"
        for run in runs
        for task, mix in run.config.mixture.items()
        if (formula := _formula(mix.reward))
    ]
    return f" The reward of these tasks is not their accuracy: {'; '.join(texts)}." if texts else ""


def _formula(reward: RewardConfig) -> str:
    """The reward in words; empty if it is the verifier's own."""
    terms = [f"{weight:g} {name}" for name, weight in reward.weights.items()]
    text = " + ".join(terms).replace("+ -", "- ")
    if reward.required_part:
        text = f"{text or 'reward'}, or 0 if {reward.required_part} is below 1"
    penalties = {"length": reward.length_penalty, "language": reward.language_penalty}
    taken = [f"up to {penalty:g} for the {name}" for name, penalty in penalties.items() if penalty]
    return f"{text or 'reward'}, less {' and '.join(taken)}" if taken else text


def _without_verdict(run: RunData) -> str:
    """The share of the run's rollouts without a verdict, and the task with the largest share."""
    shares = {task: fmean(found) for task in run.tasks if (found := known(run.metrics, f"scoring/failed/{task}"))}
    total = fmean(known(run.metrics, "scoring/failed") or [0.0])
    worst = max(shares, key=shares.__getitem__, default="")
    return f"{total:.1%}" + (f", of {worst} {shares[worst]:.1%}" if worst and shares[worst] else "")


def _evaluation(run: RunData) -> list[dict[str, Any]]:
    rows = []
    for task, values in run.summary["tasks"].items():
        interval = (values["before_interval"] ** 2 + values["after_interval"] ** 2) ** 0.5
        rows.append({"task": task, "rise": values["after"] - values["before"], "rise_interval": interval, **values})
    return rows


def browsed(run: RunData, group: list[Line], images: dict[str, int], *, most: int | None = None) -> Line:
    """A group for the browser. Only the start and the end of a long response are kept.

    images: the number of each picture by its reference; new ones are added, up to `most`.
    """
    first = group[0]
    parts = [part for message in first["messages"] for part in parts_of(message)]
    refs = [part["image"] for part in parts if part["type"] == "image"]
    for ref in refs:
        if most is None or len(images) < most:
            images.setdefault(ref, len(images))
    return {
        "step": first["step"],
        "task": first["task"],
        "slot": first["slot"],
        "round": first["round"],
        "prompt": "\n".join(part["text"] for part in parts if part["type"] == "text"),
        "images": [images.get(ref, -1) for ref in refs],
        "answer": first.get("answer", ""),
        "boxes": first.get("boxes", {}),
        "seen": first.get("seen"),
        # With dynamic sampling a slot can have several groups in a step; the traced tokens are those of the one with a gradient.
        "rollouts": [_rollout(run, line, traced=any(each["advantage"] for each in group)) for line in group],
    }


def _rollout(run: RunData, line: Line, *, traced: bool) -> Line:
    text = line["response"]
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS // 2]}\n[…]\n{text[-MOST_CHARACTERS // 2 :]}"
    shown = {name: line[name] for name in ("reward", "advantage", "num_tokens", "finish_reason", "status", "detail", "parts")}
    trace = run.traces.get((line["step"], line["slot"], line["sample"])) if traced else None
    tokens = {name: trace[name] for name in ("pieces", "ratios", "weights")} if trace else None
    return shown | {"response": text} | ({"tokens": tokens} if tokens else {})


def _data_uri(ref: str) -> str:
    """A small copy of the image; empty if the file is gone."""
    content, kind = thumbnail(ref)
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if content else ""


def thumbnail(ref: str) -> tuple[bytes, str]:
    """A small copy of the image and its media type; empty if the file is gone."""
    try:
        image = open_image(ref, max_side=1 << 14).convert("RGB")
    except ValueError:
        return b"", ""
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    content, kind = io.BytesIO(), "png" if image.width * image.height < 1 << 14 else "jpeg"
    image.save(content, format=kind.upper(), quality=80)
    return content.getvalue(), f"image/{kind}"


def _json(value: Any) -> Markup:
    return safe(json.dumps(value, ensure_ascii=False, separators=(",", ":")))

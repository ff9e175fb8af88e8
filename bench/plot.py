"""Draws what the benches found, from their JSON: bars with the middle half of the repeats, as SVG beside it.

    python -m bench.plot bench/results

Of update*.json how much faster than TRL each path is, and its peak; of scaling.json how much faster groups are than separate
responses, by size; of step.json what a step's time goes to.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import ratios

COLOURS = ("#9aa5b1", "#e0a458", "#2a6f97")
_ROW, _LEFT, _WIDTH = 22, 190, 470


@dataclass(frozen=True, slots=True)
class Bar:
    """A labelled length; low and high, where they are known, are whiskers."""

    label: str
    value: float
    colour: str
    low: float | None = None
    high: float | None = None


def bars(title: str, rows: Sequence[Bar], unit: str) -> str:
    """A chart as SVG."""
    longest = max(max(bar.value, bar.high or 0.0) for bar in rows)
    scale = _WIDTH / longest
    parts = [f'<text x="8" y="18" font-weight="bold">{title}</text>']
    for number, bar in enumerate(rows):
        y = 32 + number * _ROW
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{bar.label}</text>')
        parts.append(f'<rect x="{_LEFT}" y="{y}" width="{bar.value * scale:.1f}" height="{_ROW - 6}" fill="{bar.colour}"/>')
        if bar.low is not None and bar.high is not None:
            ends = (_LEFT + bar.low * scale, _LEFT + bar.high * scale)
            parts.append(f'<path d="M{ends[0]:.1f} {y + 8}H{ends[1]:.1f}" stroke="#222" stroke-width="2"/>')
        at = _LEFT + max(bar.value, bar.high or 0.0) * scale + 6
        parts.append(f'<text x="{at:.1f}" y="{y + 13}">{bar.value:.3g}{unit}</text>')
    size = f'width="{_LEFT + _WIDTH + 80}" height="{40 + len(rows) * _ROW}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def update(found: dict[str, Any]) -> dict[str, str]:
    cases = found["cases"].items()
    paths = list(next(iter(found["cases"].values()))["seconds"])
    coloured = list(zip(paths, COLOURS, strict=True))
    faster = [
        Bar(f"{name}, {path}", of["faster"][path][1], colour, of["faster"][path][0], of["faster"][path][2])
        for name, of in cases
        for path, colour in coloured
    ]
    peak = [Bar(f"{name}, {path}", of["peak_mb"][path], colour) for name, of in cases for path, colour in coloured]
    return {"speed": bars("An update, times as fast as TRL's", faster, "x"), "memory": bars("Its peak memory", peak, " MB")}


def scaling(found: dict[str, Any]) -> dict[str, str]:
    rows = []
    for number, points in enumerate(found["axes"].values()):
        for name, of in points.items():
            low, middle, high = ratios(of["seconds"]["separate"], of["seconds"]["group"])
            rows.append(Bar(name, middle, COLOURS[number % len(COLOURS)], low, high))
    return {"speed": bars("Whole groups, times as fast as separate responses", rows, "x")}


def step(found: dict[str, Any]) -> dict[str, str]:
    spent = sorted(found["seconds"].items(), key=lambda item: -item[1])
    rows = [Bar(name, 1000 * seconds / found["steps"], COLOURS[2]) for name, seconds in spent]
    return {"pieces": bars("What a step of the laptop's run goes to", rows, " ms")}


_UPDATES = ("update", "update_moe", "update_qwen3_5", "update_qwen3_5_moe")
DRAWN = {"scaling": scaling, "step": step} | dict.fromkeys(_UPDATES, update)


def main(folder: Path) -> None:
    for name, draw in DRAWN.items():
        source = folder / f"{name}.json"
        if source.exists():
            for part, svg in draw(json.loads(source.read_text())).items():
                (folder / f"{name}-{part}.svg").write_text(svg)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

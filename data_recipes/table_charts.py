"""table_charts (vision): questions about charts of real tables (harvests, cars, weather, share prices, electricity)."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from vega_datasets import local_data

from vlrl.data.recipe import Drop, png
from vlrl.data.shards import NewRow

SOURCE = "vega-datasets 0.9 (barley, cars, seattle-weather, stocks, iowa-electricity), drawn by this recipe"
LICENCE = "BSD-3-Clause"
VERSION = 1
TRAIN, EVAL = 1000, 100
DRAWN = 2500
TASK = "chart"
WIDTH, HEIGHT = 480, 352
LEFT, RIGHT, TOP, FLOOR = 64, 464, 48, 300  # pixels of the plot's edges
MOST = 8
COLOURS = ("steelblue", "seagreen", "darkorange", "slateblue", "firebrick", "teal")
STEPS = (1, 2, 5, 10, 20)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart's title, its values by name, its kind and colour, and the question about it."""

    title: str
    values: dict[str, float]
    kind: str
    colour: str
    ask: str
    name: str


def raws(source: str | None, seed: int) -> Iterator[Chart]:
    rng = random.Random(seed)
    series = _series()
    for _ in range(DRAWN):
        title, values = rng.choice(series)
        names = rng.sample(list(values), min(len(values), rng.randint(4, MOST)))
        kept = {name: values[name] for name in values if name in names}  # in the table's own order
        ask = rng.choice(("value", "highest", "above"))
        yield Chart(
            title=title,
            values=kept,
            kind=rng.choice(("bar", "line")),
            colour=rng.choice(COLOURS),
            ask=ask,
            name=rng.choice(list(kept)),
        )


def to_row(raw: Chart) -> NewRow:
    ordered = sorted(raw.values.values())
    exact = False
    if raw.ask == "value":
        question, answer = f"What is the value for {raw.name}?", f"{raw.values[raw.name]:g}"
    elif raw.ask == "highest":
        if ordered[-2] > 0.95 * ordered[-1]:
            raise Drop("a highest value that cannot be told by eye")
        question, answer = "Which has the highest value?", max(raw.values, key=lambda name: raw.values[name])
    else:
        limit = _axis(ordered[-1])[len(_axis(ordered[-1])) // 2]
        if any(abs(value - limit) < 0.02 * ordered[-1] for value in ordered):
            raise Drop("a value too near to the line that is asked about")
        question, answer, exact = f"How many values are above {limit:g}?", str(sum(value > limit for value in ordered)), True
    return NewRow(question=question, answer=answer, images=(render(raw),), meta={"exact": exact, "title": raw.title})


def render(chart: Chart) -> bytes:
    """The chart as PNG: a horizontal line at every step of the axis, a bar or a point over each name."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(13), ImageFont.load_default(16)
    draw.text((WIDTH / 2, 22), chart.title, fill="black", font=large, anchor="mm")
    axis = _axis(max(chart.values.values()))
    height = {value: FLOOR - (FLOOR - TOP) * value / axis[-1] for value in (*axis, *chart.values.values())}
    for value in axis:
        draw.line([(LEFT, height[value]), (RIGHT, height[value])], fill="lightgrey")
        draw.text((LEFT - 6, height[value]), f"{value:g}", fill="black", font=small, anchor="rm")
    step = (RIGHT - LEFT) / len(chart.values)
    points = [(LEFT + (place + 0.5) * step, height[value]) for place, value in enumerate(chart.values.values())]
    if chart.kind == "line":
        draw.line(points, fill=chart.colour, width=2)
    for (x, y), name in zip(points, chart.values, strict=True):
        if chart.kind == "line":
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=chart.colour)
        else:
            draw.rectangle([x - 0.33 * step, y, x + 0.33 * step, FLOOR], fill=chart.colour)
        lines = name.split(" ", 1)
        draw.multiline_text((x, FLOOR + 6), "\n".join(lines), fill="black", font=small, anchor="ma", align="center")
    return png(image)


def _axis(highest: float) -> list[float]:
    """Round axis values from 0 to the highest value or slightly more, in four to eight steps."""
    power = 10.0 ** (len(f"{highest:.0f}") - 2)
    step = next(step * power for step in STEPS if step * power * 8 >= highest)
    return [number * step for number in range(int(highest / step) + 2)]


def _series() -> list[tuple[str, dict[str, float]]]:
    """The titles of all tables, with their values by name."""
    found: dict[str, dict[str, float]] = {}

    def add(title: str, table, name: str, value: str) -> None:
        values = {str(label): round(float(number), 1) for label, number in zip(table[name], table[value], strict=True)}
        if len(values) >= 4 and max(values.values()) >= 10:
            found[title] = values

    barley = local_data.barley()
    barley["variety"] = barley["variety"].replace({"Wisconsin No. 38": "Wisconsin"})
    for (site, year), part in barley.groupby(["site", "year"]):
        add(f"Barley at {site}, {year} (bushels an acre)", part, "variety", "yield")
    cars = local_data.cars()
    cars["year"] = cars["Year"].dt.year
    for column, title in (("Miles_per_Gallon", "Miles a gallon"), ("Horsepower", "Horsepower"), ("Acceleration", "Acceleration")):
        for origin, part in cars.dropna().groupby("Origin"):
            add(f"{title} of cars, {origin}, by year", part.groupby("year", as_index=False)[column].mean(), "year", column)
    weather = local_data.seattle_weather()
    weather["month"], weather["year"] = weather["date"].dt.strftime("%b"), weather["date"].dt.year
    for year, part in weather.groupby("year"):
        by_month = part.groupby("month", sort=False, as_index=False)
        add(f"Warmest day of the month, Seattle {year} (°C)", by_month["temp_max"].max(), "month", "temp_max")
        add(f"Rain in Seattle, {year} (mm)", by_month["precipitation"].sum(), "month", "precipitation")
    stocks = local_data.stocks()
    stocks["year"] = stocks["date"].dt.year
    for symbol, part in stocks.groupby("symbol"):
        add(f"Mean price of {symbol} ($)", part.groupby("year", as_index=False)["price"].mean(), "year", "price")
    power = local_data.iowa_electricity()
    power["year"] = power["year"].dt.year
    for kind, part in power.groupby("source"):
        add(f"Electricity in Iowa: {kind} (GWh)", part, "year", "net_generation")
    return sorted(found.items())

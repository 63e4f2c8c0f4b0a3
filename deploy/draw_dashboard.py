"""Draws the dashboard from a real run (`real_run.py`): each panel shows what Prometheus answers to
the panel's own queries. `make dashboard` runs it.

    draw_dashboard.py PICTURE [SECONDS]
"""

import json
import math
import pathlib
import re
import sys
import textwrap
import urllib.parse

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image
from real_run import SCRAPE_SECONDS, real_run
from running import DEPLOY, page

matplotlib.use("Agg")
DASHBOARD = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())
# What Grafana would say: four scrapes, and at least a point of the picture.
RATE_INTERVAL = f"{6 * SCRAPE_SECONDS}s"
# Inches of a cell of Grafana's grid of 24 columns.
CELL_WIDTH, CELL_HEIGHT = 0.66, 0.36

Series = list[tuple[str, list[float], list[float]]]


class Window:
    """What Prometheus knows of the run."""

    def __init__(self, address: str, begin: float, end: float) -> None:
        self.address, self.begin, self.end = address, begin, end

    def minutes(self) -> float:
        """How long the run was."""
        return (self.end - self.begin) / 60

    def ask(self, expression: str) -> list[dict]:
        """The series of a query over the whole run."""
        query = urllib.parse.urlencode(
            {"query": expression, "start": self.begin, "end": self.end, "step": SCRAPE_SECONDS}
        )
        answer = json.loads(page(self.address, f"/api/v1/query_range?{query}"))
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def series(self, panel: dict) -> Series:
        """A panel's lines: their names, minutes and values; NaN where there is none."""
        found = []
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", RATE_INTERVAL)
            for result in self.ask(re.sub(r"\$\w+", ".*", expression)):
                name = re.sub(
                    r"\{\{(\w+)\}\}",
                    lambda label, of=result["metric"]: of.get(label[1], ""),
                    target["legendFormat"],
                ).strip()
                told = {
                    round((at - self.begin) / SCRAPE_SECONDS): float(value)
                    for at, value in result["values"]
                }
                steps = range(int((self.end - self.begin) / SCRAPE_SECONDS) + 1)
                found.append(
                    (
                        name or "(none)",
                        [step * SCRAPE_SECONDS / 60 for step in steps],
                        [told.get(step, math.nan) for step in steps],
                    )
                )
        return found


def written(value: float, unit: str) -> str:
    """A value as Grafana writes it, more or less."""
    if unit == "percentunit":
        return f"{100 * value:.4g} %"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    if unit == "s" and abs(value) >= 86_400:
        return f"{value / 86_400:.3g} days"
    if unit == "s" and value and abs(value) < 0.9995:
        return f"{1000 * value:.3g} ms"
    suffix = {"s": " s", "reqps": " req/s", "ops": " ops/s"}.get(unit, "")
    return f"{value:.4g}{suffix}"


def draw_lines(axes: Axes, panel: dict, lines: Series) -> None:
    """A graph over time."""
    custom = panel["fieldConfig"]["defaults"]["custom"]
    floor = [0.0] * (len(lines[0][1]) if lines else 0)
    for name, minutes, values in lines:
        # A line along 0 all the time needs no name: there are many.
        if not any(value and not math.isnan(value) for value in values):
            name = f"_{name}"
        if custom.get("drawStyle") == "bars":
            axes.bar(minutes, values, width=1.3 * SCRAPE_SECONDS / 60, label=name, alpha=0.7)
        elif "stacking" in custom:
            top = [
                low + (0 if math.isnan(value) else value)
                for low, value in zip(floor, values, strict=True)
            ]
            axes.fill_between(minutes, floor, top, label=name, alpha=0.7, linewidth=0)
            floor = top
        else:
            axes.plot(minutes, values, linewidth=1, label=name)


def draw_states(axes: Axes, panel: dict, lines: Series) -> None:
    """A bar for each series, in the colour of its state."""
    [mapping] = panel["fieldConfig"]["defaults"]["mappings"]
    for row, (_, minutes, values) in enumerate(lines):
        for at, value in zip(minutes, values, strict=True):
            if not math.isnan(value):
                state = mapping["options"][f"{value:g}"]
                axes.barh(
                    row, 1.05 * SCRAPE_SECONDS / 60, left=at, height=0.7, color=state["color"]
                )
    # An address is as long as this: two lines.
    axes.set_yticks(range(len(lines)), [name.replace(":", "\n:") for name, *_ in lines])
    for state in {state["text"]: state for state in mapping["options"].values()}.values():
        axes.barh(0, 0, color=state["color"], label=state["text"])


def draw_number(axes: Axes, panel: dict, lines: Series) -> None:
    """The last value of each series, and its name."""
    axes.set_axis_off()
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for row, (name, _, values) in enumerate(lines):
        last = [value for value in values if not math.isnan(value)][-1]
        axes.text(
            0.5, 0.55 - 0.3 * row, written(last, unit), fontsize=17, ha="center", color="green"
        )
        axes.text(0.5, 0.4 - 0.3 * row, name, fontsize=8, ha="center")


def draw(figure, panel: dict, window: Window, rows: int) -> None:
    """One panel, at its place in the grid."""
    place = panel["gridPos"]
    lines = window.series(panel)
    heading = 1.1
    axes = figure.add_axes(
        (
            (place["x"] + 1.5) / 24.3,
            1 - (place["y"] + place["h"] - 2.3) / rows,
            (place["w"] - 1.8) / 24.3,
            (place["h"] - 2.3 - heading) / rows,
        )
    )
    title = "\n".join(textwrap.wrap(panel["title"], 7 * place["w"]))
    axes.set_title(title, fontsize=9.5, loc="left", fontweight="bold")
    if panel["type"] == "stat":
        draw_number(axes, panel, lines)
        return
    {"timeseries": draw_lines, "state-timeline": draw_states}[panel["type"]](axes, panel, lines)
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    if panel["type"] == "timeseries":
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value, unit)))
        highest = [value for *_, values in lines for value in values if value > 0]
        if "min" in defaults:
            axes.set_ylim(defaults["min"], defaults.get("max", None if highest else 1))
        axes.grid(alpha=0.3)
    if not lines:
        axes.text(0.5, 0.5, "no series", ha="center", transform=axes.transAxes, color="grey")
    axes.tick_params(labelsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, window.minutes())
    handles, names = axes.get_legend_handles_labels()
    if not names:
        return
    # As many columns as the longest name leaves room for, and five lines.
    columns = max(1, 10 * place["w"] // (max(map(len, names)) + 5))
    if len(names) > 5 * columns:
        names[5 * columns - 1] = f"and {len(names) - 5 * columns + 1} more"
    axes.legend(
        handles[: 5 * columns],
        names[: 5 * columns],
        fontsize=6.5,
        ncols=columns,
        loc="upper left",
        frameon=False,
        bbox_to_anchor=(-0.02, -0.14),
        borderaxespad=0,
        columnspacing=1,
        handlelength=1,
    )


def main() -> None:
    """Runs, asks and draws."""
    picture = pathlib.Path(sys.argv[1])
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 240
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in DASHBOARD["panels"])
    figure = pyplot.figure(figsize=(24 * CELL_WIDTH, rows * CELL_HEIGHT))
    with real_run(seconds) as (address, begin, end):
        window = Window(address, begin, end)
        for panel in DASHBOARD["panels"]:
            if panel["type"] == "row":
                place = panel["gridPos"]
                figure.text(
                    0.01,
                    1 - (place["y"] + 0.7) / rows,
                    panel["title"],
                    fontsize=13,
                    color="#1f4e79",
                    fontweight="bold",
                )
            else:
                draw(figure, panel, window, rows)
    figure.savefig(picture, dpi=90)
    # A palette is enough for lines, and takes a third of the bytes.
    Image.open(picture).convert("RGB").quantize(200).save(picture, optimize=True)
    print(f"{picture}: {picture.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()

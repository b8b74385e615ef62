"""The report's figures as inline SVG. Knows metrics and summaries, nothing of HTML around them."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from factotum.training.summary import Summary, TaskRow

INK, SOFT, LINE = "#1f2933", "#6b7785", "#d9dee4"
COLOURS: Final = (
    "#2563a8",
    "#c4622d",
    "#2f8f6b",
    "#8a5aa8",
    "#b08a1e",
    "#c2476b",
    "#3a9bb3",
    "#6f7d3c",
    "#7a4b36",
    "#5b6bc0",
)
STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.grid": True,
    "grid.color": "#eceff3",
    "legend.frameon": False,
    "svg.hashsalt": "factotum",
}


def svg(figure: Figure) -> str:
    """A figure as an SVG element that holds everything it shows and links to nothing.

    >>> "http" in svg(Figure())
    False
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)


def score_bars(summary: Summary) -> str | None:
    """Normalised score of each task with its interval, beside retrieve-and-play and JAT; None without any."""
    rows = [row for row in summary.rows if _normalised(row, summary.agent) is not None]
    if not rows:
        return None
    families = list(dict.fromkeys(row.family for row in rows))
    rows.sort(key=lambda row: (families.index(row.family), -(_normalised(row, summary.agent) or 0.0)))
    with _style():
        figure = Figure(figsize=(8.6, 0.9 + 0.24 * len(rows)))
        axes = figure.add_subplot()
        _draw_bars(axes, rows, summary.agent, families)
        axes.set_yticks(range(len(rows)), [row.task for row in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("expert-normalised score (0 random, 1 expert); whiskers: 95 % interval")
        axes.grid(axis="y", visible=False)
        axes.tick_params(length=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.2)
        return svg(figure)


def _draw_bars(axes: Any, rows: Sequence[TaskRow], agent: str, families: list[str]) -> None:
    shown = [row.scores[agent] for row in rows]
    values = np.array([score.normalised for score in shown], float)
    spread = np.abs(np.array([[score.low, score.high] for score in shown], float).T - values)
    colours = [COLOURS[families.index(row.family) % len(COLOURS)] for row in rows]
    low, high = min(-0.05, _floor((values - spread[0]).min())), max(1.1, min(1.6, values.max() + 0.1))
    for bar in (0.0, 0.5, 1.0):
        axes.axvline(bar, color=SOFT, linewidth=0.8, linestyle="-" if bar != 0.5 else (0, (3, 3)), zorder=1)
    axes.barh(range(len(rows)), values, height=0.68, color=colours, alpha=0.85, zorder=2)
    axes.errorbar(
        values, range(len(rows)), xerr=spread, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2, zorder=3
    )
    if agent != "retrieve":
        points = [_normalised(row, "retrieve") for row in rows]
        _mark(axes, points, "retrieve-and-play", marker="D", markersize=4.5, markerfacecolor="white")
    _mark(axes, [row.jat for row in rows], "JAT (published)", marker="|", markersize=10, markeredgewidth=1.6)
    axes.plot([], [], color=SOFT, linewidth=0.8, linestyle=(0, (3, 3)), label="half of expert")
    axes.set_xlim(low, high)


def _mark(axes: Any, points: Sequence[float | None], label: str, **style: Any) -> None:
    """A marker in the row of each task that has a number."""
    places = [(point, y) for y, point in enumerate(points) if point is not None]
    if places:
        axes.plot(
            *zip(*places, strict=True), linestyle="", markeredgecolor=INK, zorder=4, label=label, **style
        )


def _floor(value: float) -> float:
    return max(-1.0, math.floor(value * 10) / 10 - 0.05)


def _normalised(row: TaskRow, label: str) -> float | None:
    return row.scores[label].normalised if label in row.scores else None


def learning_curves(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Loss, loss by task or family, tokens a second and data wait over steps; None without numbers."""
    series = collect_series(metrics)
    panels = [(title, chosen) for title, chosen in _panels(series) if chosen]
    if not panels:
        return None
    with _style():
        height = (len(panels) + 1) // 2
        figure = Figure(figsize=(9.6, 2.7 * height), layout="constrained")
        for index, (title, chosen) in enumerate(panels):
            _draw_curves(figure.add_subplot(height, 2, index + 1), title, chosen)
        return svg(figure)


def collect_series(metrics: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Finite numbers by name over steps; nested names joined by "/".

    >>> collect_series([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    {'loss': ([1.0, 2.0], [2.0, 1.0])}
    """
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in metrics:
        for name, value in _flat(line):
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if number and name != "step" and "step" in line:
                steps, values = series.setdefault(name, ([], []))
                steps.append(float(line["step"]))
                values.append(float(value))
    return series


def _flat(line: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


Series = dict[str, tuple[list[float], list[float]]]


def _panels(series: Series) -> list[tuple[str, Series]]:
    """What belongs together, by the names the training loop logs."""
    parts = {name: one for name, one in series.items() if name.startswith("loss/")}
    return [
        ("loss", {name: one for name, one in series.items() if name in ("loss", "validation_loss")}),
        ("loss by task", _by_task(parts)),
        ("tokens a second", {name: one for name, one in series.items() if "tokens_per" in name}),
        ("share of time waiting for data", {name: one for name, one in series.items() if "wait" in name}),
        ("learning rate", {name: one for name, one in series.items() if name == "learning_rate"}),
        ("gradient norm", {name: one for name, one in series.items() if "gradient_norm" in name}),
    ]


def _by_task(parts: Series, limit: int = 10) -> Series:
    """Losses by task, or the mean of each family where there are more than a legend can hold."""
    named = {name.removeprefix("loss/"): one for name, one in parts.items()}
    if len(named) <= limit:
        return named
    families: dict[str, dict[float, list[float]]] = {}
    for name, (steps, values) in named.items():
        points = families.setdefault(name.split("/")[0].split(":")[0], {})
        for step, value in zip(steps, values, strict=True):
            points.setdefault(step, []).append(value)
    means = {
        name: {step: sum(v) / len(v) for step, v in sorted(points.items())}
        for name, points in families.items()
    }
    return {f"{name} (mean)": (list(points), list(points.values())) for name, points in means.items()}


def _draw_curves(axes: Any, title: str, series: Series) -> None:
    for index, (name, (steps, values)) in enumerate(series.items()):
        marker = "o" if len(steps) < 3 else None
        colour, dash = COLOURS[index % len(COLOURS)], "-" if index < len(COLOURS) else "--"
        axes.plot(
            steps,
            values,
            color=colour,
            linestyle=dash,
            marker=marker,
            markersize=3,
            linewidth=1.3,
            label=name,
        )
    every = [value for _, values in series.values() for value in values]
    if title.startswith("loss") and min(every) > 0 and max(every) > 20 * min(every):
        axes.set_yscale("log")
    if title.startswith(("tokens", "share")):
        axes.set_ylim(0, max(every) * 1.1 or 1)
    if title.startswith("share"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    if len(series) > 1:
        # Losses fall, so the upper right is where curves are not.
        axes.legend(
            fontsize=7, loc="upper right", ncols=1 + (len(series) > 5), handlelength=1.2, labelspacing=0.3
        )


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(STYLE)

"""The report of a meta-trained optimizer: best values by evaluation beside random search. Knows no model."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from factotum.core.files import read_json_lines, write_bytes_atomic
from factotum.training import report_html as html
from factotum.training.report import write_report
from factotum.training.report_plots import COLOURS, SOFT, STYLE, svg

Curves = Mapping[str, Mapping[str, Sequence[float]]]


def write_search_report(
    run: Path, measured: Mapping[str, Any] | None, *, title: str | None, out: Path | None = None
) -> Path:
    """Write `out`, by default `<run>/report.html`, and, where something was measured, the picture `<run>/held_out.png`.

    Args:
        run: folder with metrics.jsonl.
        measured: `step`, `held_out` and `random` ("<D>d/<T>" -> mean best value), `curves` ("<D>d" -> name ->
            mean best value after each evaluation), or None.
        title: heading; the run's name by default.
        out: the file.

    Returns:
        The report.
    """
    sections = []
    if measured is not None:
        figure = search_figure(measured["curves"])
        write_bytes_atomic(run / "held_out.png", png(figure))
        metrics = read_json_lines(run / "metrics.jsonl")
        sections = [
            ("Held-out functions", _table(measured) + plot(figure)),
            ("Held-out functions over training", plot(progress_figure(metrics))),
        ]
    return write_report(run, None, out=out, title=title, sections=sections)


def plot(figure: Figure) -> str:
    """A figure as part of a page."""
    return f'<figure class="plot">{svg(figure)}</figure>'


def png(figure: Figure) -> bytes:
    """A figure as a picture."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, bbox_inches="tight", facecolor="white")
    return file.getvalue()


def search_figure(curves: Curves) -> Figure:
    """Mean best value after each evaluation, one panel a set of functions, one line a searcher.

    >>> len(search_figure({"2d": {"core": [1.0, 0.5], "random": [1.0, 0.9]}}).axes)
    1
    """
    with matplotlib.rc_context(STYLE):
        figure, panels = panels_of(len(curves))
        for axes, (name, lines) in zip(panels, curves.items(), strict=True):
            for index, (label, best) in enumerate(lines.items()):
                colour = SOFT if label == "random" else COLOURS[index % len(COLOURS)]
                axes.plot(range(1, len(best) + 1), best, color=colour, linewidth=1.5, label=label)
            axes.set_title(name)
            axes.set_xlabel("evaluation")
            axes.set_ylabel("mean best value")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.legend(loc="upper right")
        return figure


def progress_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Mean best value at each number of evaluations over training steps; dashed: random search.

    >>> line = {"step": 1, "held_out": {"2d/10": 0.5}, "random": {"2d/10": 0.9}}
    >>> [axes.get_title(loc="left") for axes in progress_figure([line]).axes]
    ['2d']
    """
    lines = [line for line in metrics if "held_out" in line]
    names = list(lines[-1]["held_out"]) if lines else []
    groups = list(dict.fromkeys(name.split("/")[0] for name in names))
    with matplotlib.rc_context(STYLE):
        figure, panels = panels_of(len(groups))
        for axes, group in zip(panels, groups, strict=True):
            mine = [name for name in names if name.split("/")[0] == group]
            for index, name in enumerate(mine):
                _draw_progress(axes, lines, name, COLOURS[index % len(COLOURS)])
            axes.set_title(group)
            axes.set_xlabel("step")
            axes.set_ylabel("mean best value")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
            axes.legend(loc="upper right", title="evaluations", fontsize=7, title_fontsize=7)
        return figure


def _draw_progress(axes: Any, lines: Sequence[Mapping[str, Any]], name: str, colour: str) -> None:
    shown = [line for line in lines if name in line["held_out"]]
    steps = [line["step"] for line in shown]
    values = [line["held_out"][name] for line in shown]
    axes.plot(steps, values, color=colour, marker="o", markersize=3, linewidth=1.3, label=name.split("/")[1])
    axes.axhline(shown[-1]["random"][name], color=colour, linewidth=0.9, linestyle="--")


def panels_of(count: int, columns: int = 2, height: float = 2.9) -> tuple[Figure, list[Any]]:
    """A figure of so many panels in rows of so many columns, `height` inches a row; and the panels."""
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(9.6, height * rows), layout="constrained")
    return figure, [
        figure.add_subplot(rows, min(columns, max(1, count)), index + 1) for index in range(count)
    ]


def _table(measured: Mapping[str, Any]) -> str:
    head = ("functions", "evaluations", "core", "random search", "difference")
    rows = [
        (*name.split("/"), f"{value:.3f}", f"{chance:.3f}", f"{value - chance:+.3f}")
        for name, value in measured["held_out"].items()
        for chance in [measured["random"][name]]
    ]
    note = f"Mean best value after {measured['step']:,} training steps; lower is better."
    return f"<p>{note}</p>" + html.plain_table(head, rows)

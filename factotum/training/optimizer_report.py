"""The report of a meta-trained optimizer: log losses by step and family beside its rivals. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from factotum.core.files import read_json_lines, write_bytes_atomic
from factotum.training import report_html as html
from factotum.training.report import write_report
from factotum.training.report_plots import COLOURS, SOFT, STYLE
from factotum.training.search_report import panels_of, plot, png

Families = Mapping[str, Mapping[str, Any]]


def write_optimizer_report(
    run: Path, measured: Mapping[str, Any] | None, *, title: str | None, out: Path | None = None
) -> Path:
    """Write `out`, by default `<run>/report.html`, and, where something was measured, the picture `<run>/held_out.png`.

    Args:
        run: folder with metrics.jsonl.
        measured: `step`; `held_out` and `final`, family -> name -> log loss; `curves`, family -> name -> log loss
            after each step; `rates`, family -> rival -> its best learning rate; or None.
        title: heading; the run's name by default.
        out: the file.

    Returns:
        The report.
    """
    sections = []
    if measured is not None:
        figure = curves_figure(measured["curves"])
        write_bytes_atomic(run / "held_out.png", png(figure))
        metrics = read_json_lines(run / "metrics.jsonl")
        sections = [
            ("Held-out problems", _table(measured)),
            ("Held-out problems by step", plot(figure)),
            ("Held-out problems over training", plot(progress_figure(metrics))),
        ]
    return write_report(run, None, out=out, title=title, sections=sections)


def curves_figure(curves: Families) -> Figure:
    """Mean log loss after each step, one panel a family, one line an optimizer.

    >>> len(curves_figure({"bowl": {"core": [0.0, -1.0], "untrained": [0.0, -0.5]}}).axes)
    1
    """
    with matplotlib.rc_context(STYLE):
        figure, panels = panels_of(len(curves), columns=3, height=2.3)
        for axes, (family, lines) in zip(panels, curves.items(), strict=True):
            for index, (name, line) in enumerate(lines.items()):
                colour = SOFT if name == "untrained" else COLOURS[index % len(COLOURS)]
                axes.plot(range(1, len(line) + 1), line, color=colour, linewidth=1.3, label=name)
            axes.set_title(family)
            axes.set_xlabel("step")
            axes.set_ylabel("mean log loss")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if panels:
            panels[0].legend(fontsize=7)
        return figure


def progress_figure(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Mean log loss of each family over training; dashed: the best rival.

    >>> line = {"step": 1, "held_out": {"bowl": {"core": -1.0, "untrained": 0.0, "Adam": -2.0}}}
    >>> [axes.get_title(loc="left") for axes in progress_figure([line]).axes]
    ['bowl']
    """
    lines = [line for line in metrics if "held_out" in line]
    families = list(lines[-1]["held_out"]) if lines else []
    with matplotlib.rc_context(STYLE):
        figure, panels = panels_of(len(families), columns=3, height=2.3)
        for axes, family in zip(panels, families, strict=True):
            steps = [line["step"] for line in lines]
            values = [line["held_out"][family]["core"] for line in lines]
            axes.plot(steps, values, color=COLOURS[0], marker="o", markersize=3, linewidth=1.3)
            axes.axhline(
                best_rival(lines[-1]["held_out"][family])[1], color=SOFT, linestyle="--", linewidth=0.9
            )
            axes.set_title(family)
            axes.set_xlabel("meta-step")
            axes.set_ylabel("mean log loss")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        return figure


def best_rival(lines: Mapping[str, float]) -> tuple[str, float]:
    """The lowest of what is not the core, trained or not.

    >>> best_rival({"core": -3.0, "untrained": -1.0, "Adam": -2.0, "RMSProp": -1.5})
    ('Adam', -2.0)
    """
    rivals = [(name, value) for name, value in lines.items() if name not in ("core", "untrained")]
    return min(rivals, key=lambda one: one[1])


def _table(measured: Mapping[str, Any]) -> str:
    names = list(next(iter(measured["held_out"].values())))
    rows, won = [], 0
    for family, lines in measured["held_out"].items():
        rates = measured["rates"].get(family, {})
        won += lines["core"] < best_rival(lines)[1]
        cells = [f"{lines[name]:.3f}" + (f" ({rates[name]:g})" if name in rates else "") for name in names]
        rows.append((family, *cells, f"{measured['final'][family]['core']:.3f}"))
    steps = len(next(iter(next(iter(measured["curves"].values())).values())))
    note = (
        f"Mean over {steps} steps of the log loss relative to the start, after {measured['step']:,} meta-steps; "
        f"lower is better. In brackets: the rival's best learning rate for the family. The core is below "
        f"both rivals in {won} of {len(rows)} families."
    )
    return f"<p>{note}</p>" + html.plain_table(("family", *names, "core, last step"), rows)

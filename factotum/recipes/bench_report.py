"""A comparison of optimizers as one offline HTML file: table, curves, sweeps, how it was made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from factotum.core.files import write_text_atomic
from factotum.recipes.bench_runs import Protocol, last_steps
from factotum.recipes.bench_summary import Standing, columns, number, table_rows
from factotum.training import report_html as html
from factotum.training.optimizer_plots import curves_figure, sweep_figure
from factotum.training.provenance import machine, read_commands, versions
from factotum.training.report_plots import svg


def write_bench_report(
    folder: Path, found: Sequence[Standing], protocol: Protocol, *, title: str, left_out: Sequence[str] = ()
) -> Path:
    """Write `<folder>/report.html`; an older one is replaced whole.

    Args:
        folder: where the runs are.
        found: contestants at their best.
        protocol: steps, seeds.
        title: heading.
        left_out: a line for each rival that could not run.

    Returns:
        The file.
    """
    sections = [
        ("Losses", html.plain_table(columns(protocol), table_rows(found)) + _notes(protocol, left_out)),
        (
            "Training curves",
            _figure(svg(curves_figure({one.label: (one.every, one.curves()) for one in found}))),
        ),
        ("Learning rates", _sweeps(found)),
        ("Runs", html.folded("every learning rate", _tried(found))),
        ("How this was made", _provenance(folder)),
    ]
    subtitle = f"Factotum bench · {protocol.steps} steps · {protocol.seeds} seeds · {protocol.device}"
    path = folder / "report.html"
    write_text_atomic(path, html.page(title, subtitle, sections))
    return path


def _notes(protocol: Protocol, left_out: Sequence[str]) -> str:
    lines = [
        f"Training loss, mean of the last {last_steps(protocol.steps)} steps and over seeds, ± half of the 95 % "
        "interval; lowest first. Further batches: the trained model, without training.",
        "Every rival has its best learning rate; the learned optimizer has none.",
        *left_out,
    ]
    return "".join(f'<p class="note">{html.escape(line)}</p>' for line in lines)


def _figure(picture: str) -> str:
    return f'<figure class="plot">{picture}</figure>'


def _sweeps(found: Sequence[Standing]) -> str:
    tried = {one.label: one.tried for one in found if one.tried and "," not in one.label}
    level = {one.label: one.last[0] for one in found if one.rate is None and math.isfinite(one.last[0])}
    return _figure(svg(sweep_figure(tried, level))) if tried else ""


def _tried(found: Sequence[Standing]) -> str:
    lines = []
    for one in found:
        if one.tried and "," not in one.label:
            lines += [f"{one.label:14s} {rate:<10g} {number(loss)}" for rate, loss in one.tried.items()]
    return "\n".join(lines)


def _provenance(folder: Path) -> str:
    lines = "\n".join(f"{one['time']}  {one['command']}" for one in read_commands(folder))
    made = " · ".join(f"{name} {one}" for name, one in versions().items())
    return (
        f'<pre>{html.escape(lines)}</pre><p class="note">{html.escape(made)}<br>{html.escape(machine())}</p>'
    )

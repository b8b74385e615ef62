"""The report of a trained teacher: what it scores, how its score rose, how fast it learnt. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from factotum.core.files import read_json, read_json_lines
from factotum.training import report_html as html
from factotum.training.progress import duration
from factotum.training.report import write_report
from factotum.training.report_plots import COLOURS, SOFT, STYLE, collect_series
from factotum.training.search_report import panels_of, plot

Metrics = Sequence[Mapping[str, Any]]


def write_teacher_report(
    run: Path, evaluation: Mapping[str, Any] | None, *, title: str | None, out: Path | None = None
) -> Path:
    """Write `out`, by default `<run>/report.html`.

    Args:
        run: folder with metrics.jsonl.
        evaluation: `name`, `epsilon`, `episodes`; `policy` and `random` with `mean`, `standard_error`, `lowest`,
            `highest`; or None.
        title: heading; the run's name by default.
        out: the file.

    Returns:
        The report.
    """
    metrics = read_json_lines(run / "metrics.jsonl")
    sections = [
        ("Score", _table(evaluation) if evaluation is not None else "<p>Not finished yet.</p>"),
        ("Score over training", plot(score_figure(metrics, evaluation)) + _time(metrics)),
        ("How it learnt", plot(learning_figure(metrics))),
    ]
    return write_report(run, None, out=out, title=title, sections=sections)


def teacher_evaluation(run: Path) -> dict[str, Any] | None:
    """What a finished teacher of this run scored, for its report; None where the run trained no teacher."""
    path = run / "evaluation.json"
    found = read_json(path) if path.is_file() else {}
    return found if found.get("kind") == "teacher" else None


def score_figure(metrics: Metrics, evaluation: Mapping[str, Any] | None = None) -> Figure:
    """Scores of training episodes and of evaluations over environment steps; dashed: random play.

    >>> lines = [{"step": 1, "score": 0.5}, {"step": 1, "evaluation": 1.0, "evaluation_std": 0.1,
    ...          "evaluation_episodes": 4, "best": True}]
    >>> [line.get_label() for line in score_figure(lines).axes[0].lines]
    ['in training', 'evaluated', 'best']
    """
    played = [line for line in metrics if "score" in line]
    judged = [line for line in metrics if "evaluation" in line]
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = panels_of(1, height=3.6)
        axes.plot(*_points(played, "score"), color=SOFT, linewidth=1.0, label="in training")
        if judged:
            steps, means = _points(judged, "evaluation")
            axes.plot(
                steps, means, color=COLOURS[0], marker="o", markersize=3, linewidth=1.5, label="evaluated"
            )
            axes.fill_between(steps, *_band(judged), color=COLOURS[0], alpha=0.15, linewidth=0)
            best = [line for line in judged if line["best"]][-1]
            style = {"linestyle": "", "marker": "*", "markersize": 11, "color": COLOURS[1]}
            axes.plot([best["step"]], [best["evaluation"]], label="best", **style)
        if evaluation is not None:
            axes.axhline(
                evaluation["random"]["mean"], color=SOFT, linestyle="--", linewidth=0.9, label="random play"
            )
        _name_axes(axes, "score of an episode, as the game pays")
        axes.legend(loc="best")
        return figure


def learning_figure(metrics: Metrics) -> Figure:
    """Q, exploration, length of episodes and speed over environment steps; `write_report` draws the loss.

    >>> len(learning_figure([{"step": 1, "q": 0.5, "timing": {"steps_per_second": 9.0}}]).axes)
    2
    """
    names = {
        "q": "mean target of Q",
        "epsilon": "share of drawn actions",
        "length": "steps of an episode",
        "timing/steps_per_second": "environment steps a second",
    }
    series = {names[name]: one for name, one in collect_series(metrics).items() if name in names}
    with matplotlib.rc_context(STYLE):
        figure, panels = panels_of(len(series), columns=3, height=2.2)
        for axes, (name, (steps, values)) in zip(panels, series.items(), strict=True):
            axes.plot(steps, values, color=COLOURS[0], linewidth=1.2, marker="o" if len(steps) < 3 else None)
            axes.set_title(name)
            _name_axes(axes, "")
        return figure


def _points(lines: Metrics, name: str) -> tuple[list[float], list[float]]:
    return [line["step"] for line in lines], [line[name] for line in lines]


def _band(lines: Metrics) -> tuple[np.ndarray, np.ndarray]:
    """Two standard errors about the mean of each evaluation."""
    means = np.array([line["evaluation"] for line in lines])
    errors = np.array([2 * line["evaluation_std"] / line["evaluation_episodes"] ** 0.5 for line in lines])
    return means - errors, means + errors


def _name_axes(axes: Any, y: str) -> None:
    axes.set_xlabel("environment steps")
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _table(evaluation: Mapping[str, Any]) -> str:
    head = ("who", "mean score", "standard error", "lowest", "highest")
    rows = [
        (name, *(f"{evaluation[key][part]:,.2f}" for part in ("mean", "standard_error", "lowest", "highest")))
        for name, key in (("teacher", "policy"), ("random play", "random"))
    ]
    note = (
        f"{evaluation['name']}: {evaluation['episodes']} whole games each from the same starts, which "
        "training and the choice of the best policy never saw; scores as the game pays them; "
        f"{evaluation['epsilon']:g} of the teacher's actions are drawn."
    )
    return f"<p>{html.escape(note)}</p>" + html.plain_table(head, rows)


def _time(metrics: Metrics) -> str:
    timed = [line for line in metrics if "timing" in line]
    if not timed:
        return ""
    seconds, step = timed[-1]["timing"]["seconds"], timed[-1]["step"]
    told = f"{step:,} environment steps in {duration(seconds)} ({step / max(seconds, 1e-9):,.0f} a second)."
    return f'<p class="note">{told} The band is two standard errors wide on each side.</p>'

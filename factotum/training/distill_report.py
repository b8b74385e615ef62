"""The report of a distilled student: its score beside its teachers', against size and latency. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from factotum.core.files import read_json_lines
from factotum.training import report_html as html
from factotum.training.progress import duration
from factotum.training.report import write_report
from factotum.training.report_plots import COLOURS, SOFT, STYLE, collect_series
from factotum.training.search_report import panels_of, plot
from factotum.training.summary import readable

Evaluation = Mapping[str, Any]


def write_distill_report(
    run: Path,
    evaluation: Evaluation | None,
    *,
    beside: Mapping[str, Evaluation] | None = None,
    hours: Sequence[Mapping[str, Any]] = (),
    scores: Sequence[Mapping[str, Any]] = (),
    play_seconds: float = 0.0,
    title: str | None = None,
    out: Path | None = None,
) -> Path:
    """Write `out`, by default `<run>/report.html`.

    Args:
        run: folder with metrics.jsonl and videos/.
        evaluation: what `evaluation.json` holds, or None.
        beside: evaluations of other students of the same teachers, by name of their run.
        hours: `hour`, `task`, `acting`, `score` of the hours of play.
        scores: `hour`, `step`, `score` (by task) of the student while it learnt.
        play_seconds: that play took.
        title: heading; the run's name by default.
        out: the file.

    Returns:
        The report.
    """
    metrics = read_json_lines(run / "metrics.jsonl")
    sections = []
    if evaluation is not None:
        everyone = {run.resolve().name: evaluation, **(beside or {})}
        sections = [
            ("Student beside its teachers", _cards(evaluation) + _table(evaluation)),
            ("Score against size and latency", plot(size_figure(everyone)) + _sizes(everyone)),
            ("Who agrees with whom", _agreement(evaluation)),
        ]
    curves = plot(learning_figure(metrics, hours, scores)) if metrics else ""
    sections.append(("How it learnt", curves + _time(metrics, play_seconds)))
    return write_report(run, None, out=out, title=title, sections=sections)


def _percent(triple: Sequence[float | None]) -> str:
    value, low, high = (*triple, None, None)[:3]
    if value is None:
        return "undefined"
    if low is None or high is None:
        return f"{value:.1%}"
    return f"{value:.1%} [{low:.1%}, {high:.1%}]"


def _cards(evaluation: Evaluation) -> str:
    student, games = evaluation["student"], evaluation["games"]
    shown = [
        (
            _percent([evaluation["geometric_mean_ratio"][0]]),
            "of the teachers' score, geometric mean",
        ),
        (_percent([evaluation["geometric_mean_normalised"][0]]), "the same above random play"),
        (f"{student['parameters']:,}", "parameters"),
        (f"{student['latency_ms']:.2f} ms", f"for one observation, eager torch, {student['device']}"),
    ]
    sizes = [game["teacher_parameters"] for game in games]
    if all(sizes):
        shown[2] = (shown[2][0], f"parameters, {student['parameters'] / max(sizes):.1%} of the teacher's")
    items = "".join(f'<div class="card"><b>{html.escape(b)}</b><span>{s}</span></div>' for b, s in shown)
    return f'<div class="cards">{items}</div>'


def _table(evaluation: Evaluation) -> str:
    head = (
        "game",
        "random",
        "teacher",
        "student",
        "student / teacher",
        "the same above random",
        "human-normalised",
    )
    rows: list[tuple[str, ...]] = []
    for name, game in evaluation["tasks"].items():
        human = game["human_normalised"]
        rows.append((
            name, readable(game["random"]), readable(game["teacher"]), readable(game["student"]),
            _percent(game["ratio"]), _percent(game["random_normalised_ratio"]),
            "–" if human is None or None in human else f"{human[0]:.0%} (teacher {human[1]:.0%})",
        ))  # fmt: skip
    if len(rows) > 1:
        means = (_percent(evaluation[name]) for name in ("geometric_mean_ratio", "geometric_mean_normalised"))
        rows.append(("geometric mean", "", "", "", *means, ""))
    of = evaluation["of"]
    note = (
        f"{of['episodes']} games each; {of['epsilon']:g} of actions drawn at random. {evaluation['protocol']} In "
        "brackets: 95 % bootstrap intervals over games, resampled in pairs; they do not speak of other seeds of "
        "training. A ratio to a teacher that scores 0 or less is undefined."
    )
    return html.plain_table(head, rows) + f'<p class="note">{html.escape(note)}</p>'


def _agreement(evaluation: Evaluation) -> str:
    games = evaluation["games"]
    word = "distance" if "distance_on_teacher_states" in games[0] else "agreement"
    form = (lambda x: f"{x:.4g}") if word == "distance" else (lambda x: f"{x:.1%}")
    rows = [
        (game["task"], form(game[f"{word}_on_teacher_states"]), form(game[f"{word}_on_student_states"]))
        for game in games
    ]
    told = {
        "agreement": "Share of states in which the student's best action is one of the teacher's best.",
        "distance": "Mean squared distance between the student's action and the teacher's.",
    }[word]
    note = (
        f"{told} Where it is worse on the student's own states than on the teacher's, the student meets what it was "
        "not taught: play of its own helps (--acting student); where both are poor, it is small or learnt too little."
    )
    return (
        html.plain_table(("game", "teacher's states", "student's states"), rows)
        + f"<p>{html.escape(note)}</p>"
    )


def size_figure(everyone: Mapping[str, Evaluation]) -> Figure:
    """Geometric mean of scores over the teachers', over parameters and over milliseconds; teachers are at 1.

    Where a ratio is undefined, all are ratios of scores above random play.

    >>> student = {"parameters": 10, "latency_ms": 0.1}
    >>> games = [{"teacher_parameters": 100, "teacher_latency_ms": 0.5}]
    >>> one = {"student": student, "games": games, "geometric_mean_ratio": [0.9, 0.8, 1.0]}
    >>> [axes.get_xlabel() for axes in size_figure({"run": one}).axes]
    ['parameters', 'milliseconds for one observation']
    """
    plain = all(one["geometric_mean_ratio"][0] is not None for one in everyone.values())
    figure_of = "geometric_mean_ratio" if plain else "geometric_mean_normalised"
    with matplotlib.rc_context(STYLE):
        figure, panels = panels_of(2, height=3.4)
        for axes, size, label in (
            (panels[0], "parameters", "parameters"),
            (panels[1], "latency_ms", "milliseconds for one observation"),
        ):
            for index, (name, one) in enumerate(everyone.items()):
                value, low, high = one[figure_of]
                if value is None:
                    continue
                spread = None if low is None or high is None else [[value - low], [high - value]]
                axes.errorbar(
                    [one["student"][size]], [value], yerr=spread, fmt="o", markersize=6 if index == 0 else 4,
                    color=COLOURS[index % len(COLOURS)], capsize=2, elinewidth=0.9, label=name,
                )  # fmt: skip
            teachers = [game[f"teacher_{size}"] for game in next(iter(everyone.values()))["games"]]
            known = [number for number in teachers if number]
            axes.plot(known, [1.0] * len(known), "D", color=SOFT, markersize=5, label="teachers")
            axes.axhline(1.0, color=SOFT, linewidth=0.8)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.set_xlabel(label)
        if panels[0].dataLim.minposx < float("inf"):
            panels[0].set_xscale("log")
        panels[1].set_xlim(left=0)
        panels[0].set_ylabel("score over the teacher's" + ", above random play" * (not plain))
        panels[1].legend(fontsize=7)
        return figure


def _sizes(everyone: Mapping[str, Evaluation]) -> str:
    """Who is in the figure, in numbers."""
    rows = [
        (
            name,
            f"{one['student']['parameters']:,}",
            f"{one['student']['bytes'] / 1024:,.0f} KiB",
            f"{one['student']['latency_ms']:.3f}",
            _percent(one["geometric_mean_ratio"]),
        )
        for name, one in everyone.items()
    ]
    for game in next(iter(everyone.values()))["games"]:
        count = game["teacher_parameters"]
        size = (f"{count:,}", f"{4 * count / 1024:,.0f} KiB") if count else ("unknown", "unknown")
        taken = game["teacher_latency_ms"]
        rows.append((f"teacher of {game['task']}", *size, "–" if taken is None else f"{taken:.3f}", ""))
    head = ("run", "parameters", "weights in single precision", "ms for one observation", "student / teacher")
    more = "Other students are runs beside this one with the same teachers. " if len(everyone) > 1 else ""
    device = next(iter(everyone.values()))["student"]["device"]
    note = f"{more}Latency: median of calls by turns, {device}, one thread; `factotum export` writes faster files."
    return html.plain_table(head, rows) + f'<p class="note">{html.escape(note)}</p>'


def learning_figure(
    metrics: Sequence[Mapping[str, Any]],
    hours: Sequence[Mapping[str, Any]] = (),
    scores: Sequence[Mapping[str, Any]] = (),
) -> Figure:
    """Loss, agreement with the teacher and KL over updates; scores of who played, and of the student, over hours.

    >>> figure = learning_figure([{"step": 1, "loss": 1.0, "agreement": 0.5}], [{"hour": 0, "task": "a", "score": 2.0}])
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['loss', 'agreement with the teacher', 'score of who plays']
    """
    series = collect_series(metrics)
    names = {
        "loss": "loss", "agreement": "agreement with the teacher", "kl": "KL from the teacher, nats",
        "error": "squared distance of actions", "gradient_norm": "gradient norm",
    }  # fmt: skip
    panels: list[tuple[str, str, dict[str, tuple[list[float], list[float]]]]] = []
    for name, title in names.items():
        chosen = {
            key.removeprefix(f"{name}/"): one for key, one in series.items() if key.startswith(f"{name}/")
        }
        if name in series:
            panels.append((title, "update", chosen if len(chosen) > 1 else {name: series[name]}))
    for title, lines in (("score of who plays", _by_task(hours)), ("score of the student", _student(scores))):
        if lines:
            panels.append((title, "hour of play", lines))
    with matplotlib.rc_context(STYLE):
        figure, drawn = panels_of(len(panels), columns=3, height=2.4)
        for axes, (title, unit, lines) in zip(drawn, panels, strict=True):
            for index, (name, (x, y)) in enumerate(lines.items()):
                colour = COLOURS[index % len(COLOURS)]
                axes.plot(x, y, color=colour, linewidth=1.2, marker="o" if len(x) < 3 else None, label=name)
            if len(lines) > 1:
                axes.legend(fontsize=6)
            axes.set_title(title)
            axes.set_xlabel(unit)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        return figure


def _by_task(hours: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    found: dict[str, tuple[list[float], list[float]]] = {}
    for line in hours:
        if line["score"] is not None:
            x, y = found.setdefault(line["task"], ([], []))
            x.append(line["hour"] + 1)
            y.append(line["score"])
    return found


def _student(scores: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    lines = [
        {"hour": line["hour"] - 1, "task": task, "score": score}
        for line in scores
        for task, score in line["score"].items()
    ]
    return _by_task(lines)


def _time(metrics: Sequence[Mapping[str, Any]], play_seconds: float) -> str:
    timed = [line for line in metrics if "timing" in line]
    if not timed or not play_seconds:
        return ""
    learning = timed[-1]["timing"]["seconds"]
    told = (
        f"{duration(learning)} of updates, {duration(play_seconds)} of play: "
        f"{learning / (learning + play_seconds):.0%} of the time was the student's."
    )
    return f'<p class="note">{told}</p>'

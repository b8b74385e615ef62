"""The picture of `distill.py` and `distill_atari.py`: students' scores over their teachers', by size and by arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from distill_results import Job, Row, scores
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from factotum.core.files import write_bytes_atomic
from factotum.training.paired import Paired, geometric_mean, score_ratio
from factotum.training.report_plots import COLOURS, INK, STYLE
from factotum.training.search_report import png


def draw(rows: dict[Job, Row], sizes: Sequence[str], path: Path) -> None:
    """Write the picture: on the left the arms that differ in size, on the right all arms.

    Args:
        rows: finished students.
        sizes: those arms, smallest students first.
        path: of a PNG file.
    """
    arms = sorted({job.arm for job in rows}, key=lambda arm: -_mean(scores(rows, arm)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        _by_size(left, rows, [arm for arm in sizes if arm in arms])
        _by_arm(right, rows, arms)
        for axes in (left, right):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.axhline(1.0, color=INK, linewidth=0.8, linestyle=":")
            axes.set_ylim(bottom=0.0)
        left.set_ylabel("score / teacher's score")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, png(figure))


def _by_size(axes: Axes, rows: dict[Job, Row], arms: Sequence[str]) -> None:
    """One line a game, and their geometric mean."""
    games = sorted({game.game for arm in arms for game in scores(rows, arm)})
    numbers = [np.mean([row["parameters"] for job, row in rows.items() if job.arm == arm]) for arm in arms]
    for game, colour in zip(games, COLOURS, strict=False):
        points = [
            (number, score_ratio(found))
            for number, arm in zip(numbers, arms, strict=True)
            for found in scores(rows, arm)
            if found.game == game
        ]
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=_title(game))
    means = [_mean(scores(rows, arm)) for arm in arms]
    axes.plot(numbers, means, color=INK, linewidth=2.5, label="geometric mean")
    axes.set_xscale("log")
    axes.set_xlabel("parameters of the student (KL)")
    axes.set_title("By size")
    axes.legend(fontsize=7)


def _by_arm(axes: Axes, rows: dict[Job, Row], arms: Sequence[str]) -> None:
    """A bar for the geometric mean of each arm, a dot a game."""
    games = sorted({game["task"] for row in rows.values() for game in row["games"]})
    for place, arm in enumerate(arms):
        found = scores(rows, arm)
        axes.bar(place, _mean(found), color="#dfe5ec", width=0.7)
        for game in found:
            colour = COLOURS[games.index(game.game) % len(COLOURS)]
            axes.plot(place, score_ratio(game), color=colour, marker="o", markersize=4)
    axes.set_xticks(range(len(arms)), arms, rotation=30, ha="right")
    axes.set_title("Geometric mean and games, every arm")


def _mean(games: Sequence[Paired]) -> float:
    return geometric_mean([score_ratio(game) for game in games])


def _title(task: str) -> str:
    return task.partition("/")[2].replace("_", " ")

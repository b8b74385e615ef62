"""Figures of a comparison of optimizers: losses over steps, and over learning rates. Knows no optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from factotum.training.report_plots import COLOURS, STYLE

VARIANT = ", "
"""What stands between a name and what is special, such as "adam, untuned"."""

Curves = Mapping[str, tuple[int, np.ndarray]]
"""Steps between points, and losses (seeds, points), by name."""


def curves_figure(curves: Curves, title: str = "") -> Figure:
    """Mean loss over steps, with the range over seeds; the first name is drawn boldly.

    >>> figure = curves_figure({"ours": (10, np.ones((2, 5))), "adam": (10, np.ones((2, 5)))})
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['ours', 'adam']
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.2), layout="constrained")
        draw_curves(figure.add_subplot(), curves, title)
        return figure


def draw_curves(axes: Any, curves: Curves, title: str = "") -> None:
    """The curves in one panel; what is not finite is left out."""
    colours = _colours(curves)
    for index, (name, (every, losses)) in enumerate(curves.items()):
        steps = every * np.arange(1, losses.shape[1] + 1)
        shown = np.where(np.isfinite(losses).all(axis=0), losses, np.nan)
        style = {"color": colours[name], "linestyle": "--" if VARIANT in name else "-"}
        axes.plot(steps, shown.mean(axis=0), linewidth=2.2 if index == 0 else 1.2, label=name, **style)
        low, high = shown.min(axis=0), shown.max(axis=0)
        axes.fill_between(steps, low, high, alpha=0.12, linewidth=0, color=colours[name])
    every_loss = np.concatenate(
        [losses[np.isfinite(losses)] for _, losses in curves.values()] or [np.ones(1)]
    )
    if every_loss.size and every_loss.min() > 0:
        axes.set_yscale("log")
    _limit(axes, curves)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    _legend(axes)


def _legend(axes: Any) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)


def _colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name; a variant has its own name's."""
    names = list(names)
    own = list(dict.fromkeys(name.split(VARIANT)[0] for name in names))
    return {name: COLOURS[own.index(name.split(VARIANT)[0]) % len(COLOURS)] for name in names}


def _limit(axes: Any, curves: Curves) -> None:
    """A rival that jumps up does not press the others together."""
    starts = [
        losses[:, 0].max() for _, losses in curves.values() if losses.size and np.isfinite(losses[:, 0]).all()
    ]
    ends = [np.nanmin(losses) for _, losses in curves.values() if np.isfinite(losses).any()]
    if starts and ends and min(ends) < np.median(starts):
        axes.set_ylim(top=2 * float(np.median(starts)))


def sweep_figure(
    tried: Mapping[str, Mapping[float, float]], level: Mapping[str, float], title: str = ""
) -> Figure:
    """Final loss over learning rate, a line a rival; level lines have no learning rate.

    Args:
        tried: final loss by learning rate, by name.
        level: final loss, by name.
        title: heading.

    >>> len(sweep_figure({"adam": {0.1: 1.0, 1.0: float("inf")}}, {"ours": 0.5}).axes[0].lines)
    2
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        colours = _colours([*level, *tried])
        for name, losses in tried.items():
            finite = {rate: loss for rate, loss in losses.items() if np.isfinite(loss)}
            line = axes.plot(
                list(finite), list(finite.values()), color=colours[name], linewidth=1.2, label=name
            )
            line[0].set(marker="o", markersize=3)
        for name, loss in level.items():
            axes.axhline(loss, color=colours[name], linewidth=2.0, label=name)
        axes.set_xscale("log")
        values = [loss for losses in tried.values() for loss in losses.values() if np.isfinite(loss)]
        values += [loss for loss in level.values() if np.isfinite(loss)]
        if values and min(values) > 0:
            axes.set_yscale("log")
            axes.set_ylim(top=min(1.3 * max(values), 10 * float(np.median(values))))
        axes.set_title(title)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss of the last steps")
        _legend(axes)
        return figure

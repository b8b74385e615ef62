"""What the examples share: samplers with equal budgets and seeds, medians over seeds, curves in one style.

`RNNSampler` alone is told the budget, which it plans with; the others have no such argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from factotum.samplers import RNNSampler, load_core
from factotum.training.report_plots import COLOURS, INK, SOFT, STYLE

OURS: Final = "RNNSampler"
COLOUR: Final = {OURS: COLOURS[0], "TPE": COLOURS[1], "random": SOFT}
OTHERS: Final = COLOURS[2:]
"""Colours of what only one example compares with."""

MakeSampler = Callable[[int], optuna.samplers.BaseSampler]
"""From a seed."""
Curves = Mapping[str, np.ndarray]
"""By name, one row a seed, one column an evaluation."""


def make_samplers(weights: str, trials: int) -> dict[str, MakeSampler]:
    """Random search, Optuna's TPE as it comes, and ours."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    core = load_core(weights)
    return {
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
        "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
        OURS: lambda seed: RNNSampler(core, n_trials=trials, seed=seed),
    }


def best_so_far(study: optuna.Study) -> np.ndarray:
    """Best value after each trial, in the order in which they ended; failed ones have none."""
    worst, best = (-np.inf, np.maximum) if study.direction.name == "MAXIMIZE" else (np.inf, np.minimum)
    complete = optuna.trial.TrialState.COMPLETE
    ended = sorted((t for t in study.trials if t.datetime_complete), key=lambda t: str(t.datetime_complete))
    values = [worst if trial.state != complete else trial.value for trial in ended]
    return best.accumulate(np.array(values, dtype=float))


def print_medians(title: str, curves: Curves, places: Sequence[int], *, over: str = "seeds") -> None:
    """A table: median and quartiles after so many evaluations."""
    places = [place for place in places if place <= _length(curves)]
    places = sorted({*places, _length(curves)})
    width = max(map(len, curves))
    print(f"{title}: median over {len(next(iter(curves.values())))} {over} [quartiles]")
    print(" " * width, *(f"{'after ' + str(place):>28}" for place in places))
    for name, rows in curves.items():
        low, middle, high = np.percentile(rows[:, [place - 1 for place in places]], (25, 50, 75), axis=0)
        cells = [f"{m:.4g} [{a:.4g}, {b:.4g}]" for a, m, b in zip(low, middle, high, strict=True)]
        print(f"{name:<{width}}", *(f"{cell:>28}" for cell in cells))


def draw_medians(axes: Any, curves: Curves, *, label: str, every: str = "evaluation") -> None:
    """Medians over seeds as lines, quartiles as bands; `OURS` on top."""
    others = iter(OTHERS)
    for name, rows in curves.items():
        colour = COLOUR.get(name) or next(others)
        low, middle, high = np.percentile(rows, (25, 50, 75), axis=0)
        at = np.arange(1, rows.shape[1] + 1)
        order = 3 if name == OURS else 2
        axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0, zorder=order)
        axes.plot(at, middle, color=colour, label=name, linewidth=1.7, zorder=order)
    axes.set(xlabel=every, ylabel=label, xlim=(1, _length(curves)))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def save_figure(draw: Callable[[Figure], None], size: tuple[float, float], path: Path) -> None:
    """One picture in the project's style."""
    with rc_context({**STYLE, "axes.titlecolor": INK, "axes.axisbelow": True}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=140, facecolor="white")
    print(f"plot: {path}")


def _length(curves: Curves) -> int:
    return next(iter(curves.values())).shape[1]

"""Regret curves of `benchmarks/samplers.py`: one picture a suite, one panel a problem, one line a rival."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from samplers_rivals import OURS, TOLD
from samplers_tables import FLOOR, Suite

COLOURS = {
    "random": "0.6",
    "tpe": "tab:blue",
    "gp": "tab:green",
    "cma": "tab:orange",
    "ngopt": "tab:purple",
    "botorch": "tab:brown",
    "gp-true": "black",
}
OUR_COLOURS = ("tab:red", "tab:pink", "tab:cyan", "tab:olive")
LEGEND = 1.9  # inches
LABELS = {
    "functions": "median simple regret",
    "gp": "mean gap to the best found",
    "bbob": "mean log10 regret",
    "tables": "mean normalised regret",
}


def curve(suite: Suite, rival: str, problem: str) -> np.ndarray:
    """The suite's statistic of the regret after 1, 2, ... evaluations."""
    places = [place for place in suite.places(problem) if place in suite.runs[rival]]
    regrets = np.stack([suite.runs[rival][p][max(suite.runs[rival][p])] for p in places])
    if suite.name == "functions":
        return np.median(regrets, axis=0)
    if suite.name == "bbob":
        return np.log10(np.maximum(regrets, FLOOR)).mean(axis=0)
    return regrets.mean(axis=0)


def draw(suites: Mapping[str, Suite], folder: Path) -> None:
    """Write <suite>.png for every suite that has results."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    for suite in suites.values():
        if suite.runs:
            _picture(suite, folder / f"{suite.name}.png")


def _picture(suite: Suite, path: Path) -> None:
    import matplotlib.pyplot as plt

    names = [""] if suite.name == "tables" else suite.problems()
    figure, panels = plt.subplots(1, len(names), figsize=(3.4 * len(names) + LEGEND, 3.4), squeeze=False)
    ours = [r for r in sorted(suite.runs) if r.partition("-")[0] in OURS and TOLD not in r]
    colours = COLOURS | {r: OUR_COLOURS[i % len(OUR_COLOURS)] for i, r in enumerate(ours)}
    for panel, problem in zip(panels[0], names, strict=True):
        for rival in [*COLOURS, *ours]:
            if rival in suite.runs and suite.complete(rival, problem):
                values = curve(suite, rival, problem)
                width = 2.2 if rival in ours else 1.2
                steps = np.arange(1, len(values) + 1)
                panel.plot(steps, values, label=rival, color=colours[rival], linewidth=width)
        _label(panel, suite, problem)
    panels[0][0].set_ylabel(LABELS[suite.name])
    handles = {t: h for panel in panels[0] for h, t in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="center right", frameon=False)
    figure.tight_layout(rect=(0, 0, 1 - LEGEND / (3.4 * len(names) + LEGEND), 1))
    figure.savefig(path, dpi=100)
    plt.close(figure)
    print(f"written to {path}")


def _label(panel: Any, suite: Suite, problem: str) -> None:
    panel.set_title(problem or suite.name)
    panel.set_xlabel("evaluations")
    panel.grid(alpha=0.3)
    if suite.name != "bbob":
        panel.set_yscale("log")
    if suite.name == "functions":
        panel.set_ylim(bottom=1e-5)

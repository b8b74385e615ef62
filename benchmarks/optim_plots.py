"""Curves of `benchmarks/optim.py`: a picture a part, a panel a family or network, a line a contestant."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from optim_results import OURS, FamilyResult, Results
from optim_tables import Standing

COLOURS = {
    "adam": "tab:blue",
    "adam, untuned": "tab:cyan",
    "rmsprop": "tab:orange",
    "sgd": "tab:brown",
    "schedulefree": "tab:green",
    "muon": "tab:purple",
}
OUR_COLOURS = ("tab:red", "tab:pink", "tab:olive")
WIDTH = 4


def draw(results: Results, folder: Path) -> None:
    """Write corpus.png, networks.png and long.png, of the parts that have results."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, dict[str, dict[str, Any]]] = {
        "corpus": results.corpus, "networks": results.networks, "long": results.long,
    }  # fmt: skip
    for name, panels in parts.items():
        if any(panels.values()):
            _picture(panels, results.labels(), folder / f"{name}.png", name)


def _picture(panels: dict[str, dict[str, Any]], labels: list[str], path: Path, part: str) -> None:
    import matplotlib.pyplot as plt

    height = math.ceil(len(panels) / WIDTH)
    figure, axes = plt.subplots(height, WIDTH, figsize=(3.4 * WIDTH, 2.9 * height + 0.6), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, found) in zip(axes.flat, panels.items(), strict=False):
        for label in reversed(labels):
            if label in found:
                _line(axis, found[label], label, _colour(label, labels))
        axis.set_title(title)
        axis.grid(alpha=0.3)
        if part != "corpus":
            axis.set_yscale("log")
            _limit(axis, found)
    for row in axes:
        row[0].set_ylabel("mean log(loss / first loss)" if part == "corpus" else "training loss")
    handles = {t: h for axis in axes.flat for h, t in zip(*axis.get_legend_handles_labels(), strict=True)}
    shown = [label for label in labels if label in handles]
    figure.legend([handles[one] for one in shown], shown, loc="lower center", ncols=len(shown), frameon=False)
    figure.tight_layout(rect=(0, 0.5 / (2.9 * height + 0.6), 1, 1))
    figure.savefig(path, dpi=90)
    plt.close(figure)
    print(f"written to {path}")


def _colour(label: str, labels: list[str]) -> str:
    ours = [one for one in labels if one.startswith(OURS)]
    if label in ours:
        return OUR_COLOURS[ours.index(label) % len(OUR_COLOURS)]
    return COLOURS.get(label, "0.6")


def _line(axis: Any, one: FamilyResult | Standing, label: str, colour: str) -> None:
    width = 2.0 if label.startswith(OURS) else 1.2
    if isinstance(one, FamilyResult):
        curve = np.mean(list(one.curves.values()), axis=0)
        axis.plot(np.linspace(0, 1, len(curve)), curve, color=colour, linewidth=width, label=label)
        axis.set_xlabel("share of the run")
        return
    curves = one.curves()
    steps = one.every * np.arange(1, curves.shape[1] + 1)
    axis.plot(steps, curves.mean(axis=0), color=colour, linewidth=width, label=label)
    axis.fill_between(steps, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axis.set_xlabel("step")


def _limit(axis: Any, found: dict[str, Standing]) -> None:
    first = max(one.rows[0]["first"] for one in found.values())
    axis.set_ylim(top=1.5 * first)

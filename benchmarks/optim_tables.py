"""The tables of `benchmarks/optim.py`, and what was asked of our optimizer beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optim_results import FamilyResult, Results, judged, read
from rich import box
from rich.console import Console
from rich.table import Table

from factotum.recipes.bench_summary import Standing, number, with_interval

READ_AT = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
DOWN = 0.01
"""A loss below this part of the first is down, however it moves there."""


@dataclass(frozen=True)
class Verdict:
    """A target: what was asked, what was measured, whether that is met (None: not measured yet)."""

    asked: str
    measured: str
    met: bool | None


def judge_corpus(results: Results, ours: str) -> list[Verdict]:
    """Target 1."""
    asked = "corpus: mean log loss below Adam's and RMSProp's at their best rates, on 75 % of families"
    control = "corpus: mean log loss below the untrained one's"
    families = {f: one for f, one in results.corpus.items() if {ours, "adam", "rmsprop"} <= set(one)}
    if not families or len(families) < len(results.corpus):
        return [Verdict(asked, f"{len(families)} of {len(results.corpus)} families are there", None)]
    won = [f for f, one in families.items() if one[ours].mean < min(one["adam"].mean, one["rmsprop"].mean)]
    share = len(won) / len(families)
    found = [Verdict(asked, f"{len(won)} of {len(families)} ({share:.0%}): {', '.join(won)}", share >= 0.75)]
    both = {
        f: (one[ours], other)
        for f, one in families.items()
        if (other := next((r for label, r in one.items() if label.startswith("untrained")), None))
    }
    if both:
        better = [f for f, (mine, other) in both.items() if mine.mean < other.mean]
        found.append(Verdict(control, f"{len(better)} of {len(both)} families", len(better) == len(both)))
    return found


def judge_networks(results: Results, ours: str) -> list[Verdict]:
    """Target 2."""
    asked = (
        "networks: final loss no worse than tuned Adam's on half of them",
        "networks: never diverging",
        "networks: final loss below untuned Adam's on two thirds",
    )
    tasks = {
        name: one for name, one in results.networks.items() if {ours, "adam", "adam, untuned"} <= set(one)
    }
    if not tasks or len(tasks) < len(results.networks):
        return [
            Verdict(text, f"{len(tasks)} of {len(results.networks)} networks are there", None)
            for text in asked
        ]
    good = [name for name, one in tasks.items() if one[ours].last[0] <= one["adam"].last[0]]
    better = [name for name, one in tasks.items() if one[ours].last[0] < one["adam, untuned"].last[0]]
    runs = sum(len(one[ours].rows) for one in tasks.values())
    bad = sum(one[ours].diverged for one in tasks.values())
    return [
        Verdict(asked[0], f"{len(good)} of {len(tasks)}: {', '.join(good)}", 2 * len(good) >= len(tasks)),
        Verdict(asked[1], f"{bad} of {runs} runs diverged", bad == 0),
        Verdict(
            asked[2], f"{len(better)} of {len(tasks)}: {', '.join(better)}", 3 * len(better) >= 2 * len(tasks)
        ),
    ]


def settled(one: Standing) -> bool:
    """Whether a long run ends no higher than it was after a tenth, or is all but at 0."""
    curve = one.curves().mean(axis=0)
    tenth = curve[max(0, len(curve) // 10 - 1)]
    return bool(curve[-1] <= max(tenth, DOWN * one.rows[0]["first"]))


def judge_long(results: Results, ours: str) -> list[Verdict]:
    """The known weakness."""
    tasks = {name: one[ours] for name, one in results.long.items() if ours in one}
    steps = max((one.rows[0]["steps"] for one in tasks.values()), default=100_000)
    asked = f"long: {steps:,} steps, the loss ends no higher than it was after a tenth of them"
    if not tasks:
        return [Verdict(asked, "not measured", None)]
    good = [name for name, one in tasks.items() if settled(one)]
    return [Verdict(asked, f"{len(good)} of {len(tasks)}: {', '.join(good)}", len(good) == len(tasks))]


def corpus_table(results: Results, labels: Sequence[str]) -> Table:
    """Mean log loss of each contestant at its best rate, a row a family."""
    table = Table("family", "problems", *labels, title="corpus: mean log loss (best rate)", box=box.MARKDOWN)
    for family, one in results.corpus.items():
        size = max((len(result.values) for result in one.values()), default=0)
        table.add_row(family, str(size), *(_family_cell(one.get(label)) for label in labels))
    return table


def _family_cell(result: FamilyResult | None) -> str:
    if result is None:
        return ""
    rate = "" if result.rate is None else f" ({result.rate:g})"
    lost = "" if result.finite == 1 else f", {1 - result.finite:.1%} not finite"
    return f"{result.mean:.2f} ± {result.half_width():.2f}{rate}{lost}"


def network_table(tasks: dict[str, dict[str, Standing]], labels: Sequence[str], title: str) -> Table:
    """Final loss of each contestant at its best rate, a row a network."""
    table = Table("network", *labels, title=title, box=box.MARKDOWN)
    for name, one in tasks.items():
        table.add_row(name, *(_network_cell(one.get(label)) for label in labels))
    return table


def _network_cell(one: Standing | None) -> str:
    if one is None:
        return ""
    rate = "" if one.rate is None else f" ({one.rate:g})"
    lost = f", {one.diverged} of {len(one.rows)} diverged" if one.diverged else ""
    return with_interval(one.last) + rate + lost


def long_table(results: Results, labels: Sequence[str]) -> Table:
    """Loss after so many steps, mean over seeds of the part of the curve that ends there."""
    table = Table(
        "network",
        "optimizer",
        *(f"{steps:,}" for steps in READ_AT),
        "lowest",
        title="long runs: loss",
        box=box.MARKDOWN,
    )
    for name, tasks in results.long.items():
        for label in labels:
            if label in tasks:
                one = tasks[label]
                curve = one.curves().mean(axis=0)
                cells = [_at(curve, steps // one.every) for steps in READ_AT]
                table.add_row(name, label, *cells, number(float(np.nanmin(curve))))
    return table


def _at(curve: np.ndarray, points: int) -> str:
    if not 1 <= points <= len(curve):
        return ""
    return number(float(curve[points - 1])) if math.isfinite(curve[points - 1]) else "not finite"


def show(folders: Sequence[Path], ours: str = "") -> Results:
    """Print all tables and verdicts; returns what was read."""
    console = Console(width=190)
    results = read(folders)
    label = judged(results, ours)
    labels = results.labels()
    if any(results.corpus.values()):
        present = [one for one in labels if any(one in family for family in results.corpus.values())]
        console.print(corpus_table(results, present))
    if any(results.networks.values()):
        present = [one for one in labels if any(one in task for task in results.networks.values())]
        console.print(
            network_table(
                results.networks, present, "networks: loss of the last 100 of 2,000 steps (best rate)"
            )
        )
    if results.long:
        console.print(long_table(results, labels))
    verdicts = [*judge_corpus(results, label), *judge_networks(results, label), *judge_long(results, label)]
    table = Table("asked", "measured", "met", title=f"asked of {label or 'ours'}", box=box.MARKDOWN)
    for verdict in verdicts:
        table.add_row(verdict.asked, verdict.measured, {True: "yes", False: "no", None: ""}[verdict.met])
    console.print(table)
    return results

"""What came of a comparison: each contestant at its best learning rate, with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from factotum.recipes.bench_rivals import UNTUNED, Rival
from factotum.recipes.bench_runs import Protocol, Row, last_steps, load, score

QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % of Student's t with 1, 2, ... degrees of freedom."""

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Standing:
    """A contestant at one learning rate, all seeds.

    Args:
        label: its name.
        rate: its learning rate, None where it has none.
        rows: its runs, one a seed.
        tried: mean last loss of each rate that was tried (of those seeds that were run).
    """

    label: str
    rate: float | None
    rows: tuple[Row, ...]
    tried: dict[float, float]

    @property
    def last(self) -> Interval:
        """Mean over seeds of the last steps' mean loss, with its 95 % interval; infinite if a run diverged."""
        return interval([score(row) for row in self.rows])

    @property
    def after(self) -> Interval:
        """Mean loss of the trained model on further batches, with its interval."""
        return interval([math.inf if row["after"] is None else row["after"] for row in self.rows])

    @property
    def diverged(self) -> int:
        """Runs whose loss stopped being finite, or ended above where it began."""
        return sum(not score(row) <= row["first"] for row in self.rows)

    @property
    def ms(self) -> float:
        """Milliseconds of a training step, median over seeds."""
        return float(np.median([row["ms"] for row in self.rows]))

    @property
    def every(self) -> int:
        """Steps that a point of the curves stands for."""
        return self.rows[0]["every"]

    def curves(self) -> np.ndarray:
        """Losses (seeds, points), NaN after a divergence."""
        longest = math.ceil(self.rows[0]["steps"] / self.every)
        curves = np.full((len(self.rows), longest), np.nan)
        for index, row in enumerate(self.rows):
            curves[index, : len(row["curve"])] = row["curve"]
        return curves

    def steps_to(self, loss: float) -> int | None:
        """Steps until the mean curve is at or below a loss; None: never."""
        below = np.flatnonzero(self.curves().mean(axis=0) <= loss)
        return int(below[0] + 1) * self.every if len(below) else None


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of the mean by Student's t; a single value has no width.

    >>> [round(value, 3) for value in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    mean = float(np.mean(values))
    if len(values) < 2 or not math.isfinite(mean):
        return mean, mean, mean
    half = student(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def student(freedom: int) -> float:
    """97.5 % quantile of Student's t.

    >>> student(4), round(student(30), 2)
    (2.776, 2.04)
    """
    if freedom <= len(QUANTILES):
        return QUANTILES[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def standing(label: str, rows: Sequence[Row], seeds: int, rate: float | None = None) -> Standing | None:
    """A contestant's runs at a learning rate, by default the one with the lowest mean loss over all seeds.

    Returns:
        None: no rate has all seeds yet.
    """
    groups: dict[float | None, list[Row]] = {}
    for row in rows:
        if row["seed"] < seeds:
            groups.setdefault(row["rate"], []).append(row)
    means = {one: float(np.mean([score(row) for row in group])) for one, group in groups.items()}
    complete = [one for one, group in groups.items() if len(group) == seeds]
    if rate is not None:
        complete = [one for one in complete if one == rate]
    if not complete:
        return None
    best = min(complete, key=lambda one: means[one])
    tried = {
        one: mean for one, mean in sorted(means.items(), key=lambda item: item[0] or 0.0) if one is not None
    }
    return Standing(label, best, tuple(sorted(groups[best], key=lambda row: row["seed"])), tried)


def standings(file: Path, rivals: Sequence[Rival], protocol: Protocol) -> list[Standing]:
    """Every contestant at its best, and Adam at the learning rate that nobody tuned."""
    found = []
    for rival in rivals:
        rows = load(file, rival.label, protocol.steps)
        found.append(standing(rival.label, rows, protocol.seeds))
        if UNTUNED in rival.always:
            found.append(standing(f"{rival.label}, untuned", rows, protocol.seeds, UNTUNED))
    return [one for one in found if one is not None]


def number(value: float) -> str:
    """Four digits, or what it is instead.

    >>> number(0.123456), number(math.inf)
    ('0.1235', 'diverged')
    """
    return f"{value:.4g}" if math.isfinite(value) else "diverged"


def with_interval(triple: Interval) -> str:
    """A number and half the width of its interval.

    >>> with_interval((1.0, 0.9, 1.1)), with_interval((2.0, 2.0, 2.0))
    ('1 ± 0.1', '2')
    """
    mean, low, high = triple
    return number(mean) if low == high else f"{number(mean)} ± {(high - low) / 2:.2g}"


def columns(protocol: Protocol) -> tuple[str, ...]:
    """Heads of the table."""
    return (
        "optimizer", "learning rate", f"loss, last {last_steps(protocol.steps)} steps", "loss, further batches",
        "steps to tuned Adam's loss", "ms a step", "diverged",
    )  # fmt: skip


def table_rows(found: Sequence[Standing]) -> list[tuple[str, ...]]:
    """One line a contestant, the lowest loss first; intervals are 95 % over seeds."""
    adam = next((one.last[0] for one in found if one.label == "adam"), math.nan)
    rows: list[tuple[str, ...]] = []
    for one in sorted(found, key=lambda one: one.last[0]):
        steps = one.steps_to(adam) if math.isfinite(adam) else None
        rows.append(
            (
                one.label,
                "none" if one.rate is None else f"{one.rate:g}",
                with_interval(one.last),
                with_interval(one.after),
                "–" if steps is None else str(steps),
                f"{one.ms:.3g}",
                f"{one.diverged} of {len(one.rows)}",
            )
        )
    return rows


def table_lines(found: Sequence[Standing], protocol: Protocol) -> list[str]:
    """The table as text."""
    cells = [columns(protocol), *table_rows(found)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]

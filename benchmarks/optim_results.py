"""What `benchmarks/optim.py` has measured, read from its folders and put in order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optim_networks import TASKS

from factotum.core.checks import UserError
from factotum.core.files import read_json_lines
from factotum.recipes.bench_rivals import UNTUNED
from factotum.recipes.bench_runs import score
from factotum.recipes.bench_summary import Standing, standing
from factotum.worlds.problems import all_problems

Row = dict[str, Any]
OURS = "hierarchical-rnn-"
RATES, LONG_RATES = 10, 5
"""Learning rates of a sweep that is over."""


@dataclass(frozen=True)
class FamilyResult:
    """A contestant on a family of the corpus, at its best learning rate.

    Args:
        rate: that rate, None where it has none.
        values: mean log loss of every instance, by problem.
        curves: mean log of loss over first loss at evenly spaced steps, by problem.
        finite: share of the instances whose losses stayed finite.
    """

    rate: float | None
    values: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]
    finite: float

    @property
    def mean(self) -> float:
        """Over problems of the means over instances."""
        return float(np.mean([values.mean() for values in self.values.values()]))

    def half_width(self, other: FamilyResult | None = None) -> float:
        """Half of the 95 % interval of the mean, or of the difference to another on the same instances."""
        parts = []
        for problem, mine in self.values.items():
            values = mine if other is None else mine - other.values[problem]
            parts.append(values.var(ddof=1) / len(values) if len(values) > 1 else 0.0)
        return 1.96 * math.sqrt(sum(parts)) / len(parts)


@dataclass(frozen=True)
class Results:
    """Everything.

    Args:
        corpus: family -> contestant -> result; those complete alone.
        networks, long: task -> contestant -> standing, of those with all seeds.
    """

    corpus: dict[str, dict[str, FamilyResult]]
    networks: dict[str, dict[str, Standing]]
    long: dict[str, dict[str, Standing]]

    def labels(self) -> list[str]:
        """Every contestant."""
        found = {
            label
            for part in (self.corpus, self.networks, self.long)
            for one in part.values()
            for label in one
        }
        return sorted(found, key=lambda label: (order(label), label))


def order(label: str) -> int:
    """Ours first, then Adam, then who else."""
    known = (OURS, "adam", "rmsprop", "sgd", "schedulefree", "muon", "untrained")
    return next((place for place, name in enumerate(known) if label.startswith(name)), len(known))


def read(folders: Sequence[Path], steps: int = 2000, seeds: int = 5, long_seeds: int = 3) -> Results:
    """All rows of all folders; networks' of so many steps and seeds."""
    networks = _files(folders, "networks", TASKS)
    return Results(
        {name: _family(rows, families()[name]) for name, rows in _files(folders, "corpus", families())},
        {
            name: _task([row for row in rows if row["steps"] == steps], seeds, RATES)
            for name, rows in networks
        },
        {
            name: _task(_longest(rows), long_seeds, LONG_RATES)
            for name, rows in _files(folders, "long", TASKS)
            if rows
        },
    )


def families() -> dict[str, set[str]]:
    """Names of problems by family."""
    found: dict[str, set[str]] = {}
    for problem in all_problems():
        found.setdefault(problem.family, set()).add(problem.name)
    return found


def _files(folders: Sequence[Path], part: str, names: Iterable[str]) -> Iterator[tuple[str, list[Row]]]:
    for name in names:
        yield name, [row for folder in folders for row in read_json_lines(folder / f"{part}.{name}.jsonl")]


def _longest(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["steps"] == max(one["steps"] for one in rows)]


def _family(rows: list[Row], problems: set[str]) -> dict[str, FamilyResult]:
    found = {}
    for label in {row["rival"] for row in rows}:
        by_rate: dict[float | None, dict[str, Row]] = {}
        for row in rows:
            if row["rival"] == label:
                by_rate.setdefault(row["rate"], {})[row["problem"]] = row
        complete = [_result(rate, own) for rate, own in by_rate.items() if set(own) == problems]
        if complete and (None in by_rate or len(complete) >= RATES):
            found[label] = min(complete, key=lambda one: one.mean)
    return found


def _result(rate: float | None, rows: dict[str, Row]) -> FamilyResult:
    return FamilyResult(
        rate,
        {name: np.array(row["values"]) for name, row in rows.items()},
        {name: np.array(row["curve"]) for name, row in rows.items()},
        float(np.mean([row["finite"] for row in rows.values()])),
    )


def _task(rows: list[Row], seeds: int, rates: int) -> dict[str, Standing]:
    found = {}
    for label in {row["rival"] for row in rows}:
        own = [row for row in rows if row["rival"] == label]
        found[label] = standing(label, own, seeds) if _swept(own, seeds, rates) else None
        if label == "adam":
            found["adam, untuned"] = standing("adam, untuned", own, seeds, UNTUNED)
    return {label: one for label, one in found.items() if one is not None}


def _swept(rows: list[Row], seeds: int, rates: int) -> bool:
    """Whether a sweep is over: enough rates, and all seeds at the one that the first seed found best."""
    first = {row["rate"]: score(row) for row in rows if row["seed"] == 0}
    if None in first:
        return True
    best = min(first, key=first.__getitem__, default=None)
    return len(first) >= rates and len({row["seed"] for row in rows if row["rate"] == best}) >= seeds


def judged(results: Results, ours: str) -> str:
    """The label of ours that is judged: the one asked for, or the only one; "" where there is none.

    Raises:
        UserError: there are several, or not the one asked for.
    """
    labels = results.labels()
    if ours:
        if ours not in labels:
            raise UserError(f"expected --ours one of {', '.join(labels)}, got {ours!r}")
        return ours
    own = [label for label in labels if label.startswith(OURS)]
    if len(own) > 1:
        raise UserError(f"several of ours have results; choose one by --ours: {', '.join(own)}")
    return own[0] if own else ""

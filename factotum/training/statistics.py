"""Scores of many tasks in few numbers, with intervals. Pure functions of arrays.

Tasks are given as a sequence of arrays, one a task, episodes on the last axis; leading axes (the
resamples of a bootstrap) are kept. Source: Agarwal et al. 2021 (arXiv 2108.13264, "rliable").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from factotum.core.checks import UserError
from factotum.core.seeding import numpy_generator

Tasks = Sequence[np.ndarray]
Statistic = Callable[[Tasks], np.ndarray]


def can_normalise(random: float | None, expert: float | None) -> bool:
    """Whether there is a scale at all: both references known, and the expert above random.

    >>> can_normalise(23.1, 20.4), can_normalise(None, 1.0), can_normalise(0.0, 1.0)
    (False, False, True)
    """
    return random is not None and expert is not None and math.isfinite(expert - random) and expert > random


def normalised_score(score: np.ndarray | float, random: float, expert: float) -> np.ndarray:
    """Share of the way from random play to the expert: `(score - random) / (expert - random)`.

    Args:
        score: raw scores, any shape.
        random: mean raw score of random actions (becomes 0).
        expert: mean raw score of the expert (becomes 1).

    Raises:
        UserError: the expert is not above random; there is no scale then, and none is invented.

    >>> normalised_score([0.5, 1.0], random=0.0, expert=2.0)
    array([0.25, 0.5 ])

    Source: Gato section 4 (there times 100); Differs: JAT's code gives 1.0 where we refuse.
    """
    if not can_normalise(random, expert):
        raise UserError(
            f"expected an expert score above the random one, got expert {expert}, random {random}"
        )
    return (np.asarray(score, float) - random) / (expert - random)


def task_means(tasks: Tasks) -> np.ndarray:
    """Mean over episodes of each task; (..., number of tasks).

    >>> task_means([np.array([0.0, 1.0]), np.array([3.0])])
    array([0.5, 3. ])
    """
    if not tasks or any(np.shape(task)[-1] == 0 for task in tasks):
        raise UserError("expected at least one task, and at least one episode of each")
    return np.stack([np.mean(task, axis=-1) for task in tasks], axis=-1)


def mean(tasks: Tasks) -> np.ndarray:
    """Mean of the tasks' means: each task counts once however many episodes it has.

    >>> float(mean([np.array([0.0, 1.0]), np.array([1.0])]))
    0.75
    """
    return task_means(tasks).mean(-1)


def median(tasks: Tasks) -> np.ndarray:
    """Median of the tasks' means.

    >>> float(median([np.array([0.0]), np.array([0.2]), np.array([1.0])]))
    0.2
    """
    return np.median(task_means(tasks), axis=-1)


def interquartile_mean(tasks: Tasks) -> np.ndarray:
    """Mean of the middle half of all tasks x episodes: lowest and highest `floor(n/4)` are dropped.

    Give the tasks equal numbers of episodes, or those with more weigh more.

    >>> float(interquartile_mean([np.array([0.0, 1.0]), np.array([2.0, 99.0])]))
    1.5

    Source: Agarwal et al. 2021, section 4.3 (equal to `scipy.stats.trim_mean(scores, 0.25)`).
    """
    task_means(tasks)  # refuses emptiness
    pooled = np.sort(np.concatenate(list(tasks), axis=-1), axis=-1)
    cut = pooled.shape[-1] // 4
    return pooled[..., cut : pooled.shape[-1] - cut].mean(-1)


def share_at_least(tasks: Tasks, bar: float = 0.5) -> np.ndarray:
    """Share of the tasks whose mean reaches `bar` (0.5: half of the expert).

    >>> float(share_at_least([np.array([0.5]), np.array([0.4])]))
    0.5
    """
    return (task_means(tasks) >= bar).mean(-1)


def worst(scores: Mapping[str, float], count: int = 10) -> list[tuple[str, float]]:
    """The `count` lowest, lowest first; equal ones by name.

    >>> worst({"b": 0.1, "a": 0.1, "c": 0.9}, 2)
    [('a', 0.1), ('b', 0.1)]
    """
    return sorted(scores.items(), key=lambda item: (item[1], item[0]))[:count]


def stratified_bootstrap(
    tasks: Tasks, statistic: Statistic, *, level: float = 0.95, repetitions: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a statistic, resampling episodes with replacement within each task.

    Args:
        tasks: one array of episode scores a task.
        statistic: maps such a sequence, with a leading axis of resamples, to one number a resample.
        level: coverage, 0.95 for the 2.5 % and 97.5 % percentiles.
        repetitions: number of resamples.
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        (low, high)

    >>> low, high = stratified_bootstrap([np.arange(50) / 49], mean)
    >>> 0.38 < low < 0.46 and 0.54 < high < 0.62
    True

    Source: Agarwal et al. 2021, section 4.1.
    """
    if not 0 < level < 1:
        raise UserError(f"level: expected a number between 0 and 1, got {level}")
    task_means(tasks)  # refuses emptiness
    generator = numpy_generator(seed, "bootstrap")
    values = [statistic(_resample(tasks, block, generator)) for block in _blocks(tasks, repetitions)]
    tail = 50 * (1 - level)
    low, high = np.percentile(np.concatenate(values), [tail, 100 - tail])
    return float(low), float(high)


def _blocks(tasks: Tasks, repetitions: int, budget: int = 4_000_000) -> list[int]:
    """Sizes of blocks of resamples of at most `budget` numbers each, so that memory stays bounded."""
    size = max(1, budget // sum(len(task) for task in tasks))
    return [min(size, repetitions - start) for start in range(0, repetitions, size)]


def _resample(tasks: Tasks, count: int, generator: np.random.Generator) -> list[np.ndarray]:
    return [np.asarray(task)[generator.integers(len(task), size=(count, len(task)))] for task in tasks]

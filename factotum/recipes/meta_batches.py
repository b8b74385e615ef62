"""Which functions a sampler meets: batches for meta-training, and held-out ones that say how well it searches.

Local letters: B functions in a batch, D dimensions, T evaluations, N points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.core.gaussian_process import squared_exponential
from factotum.core.seeding import derive_seed, numpy_generator, torch_generator
from factotum.samplers import SamplerConfig, load_core
from factotum.samplers.objective import MetaBatch, Process
from factotum.samplers.rollout import rollout
from factotum.worlds.gp import FunctionPrior, broad_prior, draw_functions, paper_prior

PriorName = Literal["paper", "broad"]
PRIORS = {"paper": paper_prior, "broad": broad_prior}
HORIZONS = (10, 20, 50, 100, 200)
"""Numbers of evaluations that held-out searches are measured at, up to the budget, which is added."""
DIMENSIONS = (2, 4, 6, 10)
"""Numbers of dimensions of held-out functions, up to the largest, which is added."""


@dataclass(frozen=True)
class Searches:
    """How a batch is searched; what differs from batch to batch is drawn.

    Args:
        functions: B, functions in a micro batch.
        smallest: least number of evaluations, where the curriculum starts.
        curriculum: share of training in which the largest number of evaluations grows to the budget.
        horizon: drawn log-uniformly between the two, or always the largest.
        parallel: share of batches with several simulated workers.
        workers: their largest number; it is drawn from 2 on.
    """

    functions: int = 64
    smallest: int = 10
    curriculum: float = 0.5
    horizon: Literal["drawn", "largest"] = "drawn"
    parallel: float = 0.2
    workers: int = 8

    def __post_init__(self) -> None:
        for name, least in (("functions", 1), ("smallest", 2), ("workers", 2)):
            if getattr(self, name) < least:
                raise UserError(f"{name}: expected {least} or more, got {getattr(self, name)}")
        for name in ("curriculum", "parallel"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: expected a share between 0 and 1, got {getattr(self, name)}")


class MetaBatches:
    """Batches of fresh functions, each a pure function of (seed, step, rank, micro step).

    All ranks get the same dimensions, evaluations and workers, so that none waits for another.

    Args:
        prior: which functions.
        config: the core's: its dimensions (all up to them for the axial core, log-uniformly) and its budget.
        searches: how they are searched.
        steps: of training in all, for the curriculum.
        seed: of everything drawn.
        device: where functions are drawn.

    >>> batches = MetaBatches("paper", SamplerConfig(core="lstm", dimensions=3), Searches(functions=2), 100, 0)
    >>> batch = batches(0, 0, 1, 0)
    >>> batch.dimensions, batch.evaluations, batch.functions(torch.rand(2, 3)).shape
    (3, 10, torch.Size([2]))
    """

    def __init__(
        self,
        prior: PriorName,
        config: SamplerConfig,
        searches: Searches,
        steps: int,
        seed: int,
        device: torch.device | str = "cpu",
    ):
        self.prior, self.config, self.searches = PRIORS[prior](), config, searches
        self.steps, self.seed, self.device = steps, seed, str(device)

    def __call__(self, step: int, rank: int, world_size: int, micro: int) -> MetaBatch:
        """The batch of a place in training."""
        draw, searches = numpy_generator(self.seed, "shape", step, micro), self.searches
        dimensions = self.config.dimensions
        if self.config.any_dimensions:
            dimensions = _log_uniform(draw.random(), 1, dimensions)
        evaluations = largest_horizon(searches, self.config.budget, step / self.steps)
        if searches.horizon == "drawn":
            evaluations = _log_uniform(draw.random(), min(searches.smallest, evaluations), evaluations)
        parallel = draw.random() < searches.parallel and evaluations > 2
        workers = int(draw.integers(2, min(searches.workers, evaluations - 1) + 1)) if parallel else 1
        seed = derive_seed(self.seed, "functions", step, rank, micro)
        return self.batch(dimensions, evaluations, workers, searches.functions, seed)

    def batch(self, dimensions: int, evaluations: int, workers: int, functions: int, seed: int) -> MetaBatch:
        """A batch of given shape."""
        drawn = draw_functions(self.prior, functions, dimensions, torch_generator(seed, device=self.device))
        process = process_of(self.prior, functions, dimensions, self.device)
        return MetaBatch(drawn, functions, dimensions, evaluations, workers, seed, process)


def _log_uniform(number: float, low: int, high: int) -> int:
    """A whole number from `low` to `high` made of a uniform one in [0, 1)."""
    return min(high, math.floor(low * ((high + 1) / low) ** number))


def largest_horizon(searches: Searches, budget: int, done: float) -> int:
    """Largest number of evaluations when a share of training is done.

    >>> [largest_horizon(Searches(), 100, done) for done in (0.0, 0.25, 0.5, 0.9)]
    [10, 55, 100, 100]
    """
    grown = min(1.0, done / searches.curriculum) if searches.curriculum else 1.0
    smallest = min(searches.smallest, budget)
    return round(smallest + (budget - smallest) * grown)


def process_of(
    prior: FunctionPrior, batch_size: int, dimensions: int, device: torch.device | str = "cpu"
) -> Process | None:
    """The one Gaussian process that all functions of a prior come from; None where there is no such one.

    >>> process_of(broad_prior(), 2, 3) is None, process_of(paper_prior(), 2, 3).lengthscale_BD[0, 0].item()
    (True, 0.3...)
    """
    if prior != paper_prior():
        return None
    scale_BD = torch.full((batch_size, dimensions), prior.lengthscale[0], device=device)
    return Process(squared_exponential, scale_BD, torch.ones(batch_size, device=device))


# -- held out


@dataclass(frozen=True)
class HeldOut:
    """Searches of functions that training never meets.

    Attributes:
        batches: source of functions.
        functions: of each number of dimensions.
        seed: of the functions.
    """

    batches: MetaBatches
    functions: int
    seed: int = 0

    def places(self) -> Iterator[tuple[int, list[int]]]:
        """Each number of dimensions with its numbers of evaluations."""
        config = self.batches.config
        every = {d for d in DIMENSIONS if d < config.dimensions and config.any_dimensions}
        horizons = sorted({t for t in HORIZONS if t < config.budget} | {config.budget})
        for dimensions in sorted(every | {config.dimensions}):
            yield dimensions, horizons

    @torch.inference_mode()
    def measure(self, checkpoint: Path, step: int) -> dict[str, Any]:
        """Mean best value, lower is better, of a checkpoint's core and of random search on the same functions.

        Args:
            checkpoint: folder with the core's files.
            step: updates made.

        Returns:
            JSON values: `held_out` and `random`, "<D>d/<T>" -> mean best value after T of T evaluations;
            `curves`, "<D>d" -> name -> mean best value after each evaluation of the largest T.
        """
        core = load_core(checkpoint).to(self.batches.device)
        result: dict[str, Any] = {"step": step, "held_out": {}, "random": {}, "curves": {}}
        for dimensions, horizons in self.places():
            for evaluations in horizons:
                best = self._search(core, dimensions, evaluations)
                result["held_out"][f"{dimensions}d/{evaluations}"] = best[-1]
            chance = self._random(dimensions, horizons[-1])
            for evaluations in horizons:
                result["random"][f"{dimensions}d/{evaluations}"] = chance[evaluations - 1]
            result["curves"][f"{dimensions}d"] = {"core": best, "random": chance}
        return result

    def _batch(self, dimensions: int, evaluations: int) -> MetaBatch:
        seed = derive_seed(self.seed, "held out", dimensions)
        return self.batches.batch(dimensions, evaluations, 1, self.functions, seed)

    def _search(self, core: torch.nn.Module, dimensions: int, evaluations: int) -> list[float]:
        batch = self._batch(dimensions, evaluations)
        done = rollout(
            core,
            batch.functions,
            evaluations,
            batch_size=self.functions,
            dimensions=dimensions,
            generator=torch_generator(batch.seed, "rollout"),
            noise_B=batch.functions.noise_B,
        )
        return _best(done.value_BT)

    def _random(self, dimensions: int, evaluations: int) -> list[float]:
        batch = self._batch(dimensions, evaluations)
        shape = (self.functions, evaluations, dimensions)
        x_BND = torch.rand(shape, generator=torch_generator(batch.seed, "random")).to(self.batches.device)
        return _best(batch.functions.many(x_BND))


def _best(value_BT: Tensor) -> list[float]:
    return value_BT.cummin(1).values.mean(0).tolist()

"""Which functions a sampler is meta-trained on: kinds, their shares, and the ranges of their parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from factotum.core.checks import UserError, unknown

Range = tuple[float, float]
"""Lowest and highest value."""

KINDS = ("gp", "trend", "ripple", "quadratic", "valley", "multimodal")
"""A Gaussian process; one with a linear trend; one on a quadratic; a quadratic; a curved valley; Rastrigin."""

SHARES = (
    "matern",
    "isotropic",
    "rotated",
    "boundary",
    "input_warp",
    "output_warp",
    "rounded_inputs",
    "rounded_values",
    "sparse",
    "noisy",
)
POSITIVE = (
    "lengthscale",
    "relevance",
    "condition",
    "power",
    "ripple",
    "stiffness",
    "bend",
    "periods",
    "noise",
)


@dataclass(frozen=True)
class FunctionPrior:
    """A distribution over functions on the unit cube of any dimension; ranges are sampled log-uniformly.

    Args:
        weights: relative share of each of `KINDS`.
        matern: share of Matern-5/2 processes; the others are squared-exponential.
        isotropic: share of processes with one lengthscale for all coordinates.
        lengthscale: in sides of the cube, for one dimension; multiplied by D ** `dimension_power`, since
            distances in the cube grow with the square root of D.
        dimension_power: see `lengthscale`; 0 keeps it the same in every dimension.
        relevance: factors on the lengthscale of each coordinate of a process that is not isotropic.
        condition: condition number of a quadratic.
        rotated: share of bowls (quadratics, valleys, multimodal) whose axes are not the coordinates.
        boundary: share of bowls whose centre is drawn from 1.5 times the cube and moved onto its surface.
        power: p of a bowl's (z^T z)^p: 1/2 is a cone, 1 a quadratic.
        ripple: standard deviation of the process or of the cosines on a bowl of standard deviation 1.
        stiffness: how much steeper a valley is across than along.
        bend: curvature of a valley, beta of z_k = beta z_{k-1}^2.
        periods: cosines of a multimodal function along a side of the cube.
        input_warp: share of functions whose coordinates are warped (Kumaraswamy's distribution function).
        warp_spread: standard deviation of the logarithms of its two parameters.
        output_warp: share of functions warped by (exp(alpha g) - 1) / alpha.
        tail: exponent alpha g of the highest value (above zero: high values spread out) or of the lowest one
            (below zero: low values do), uniform.
        rounded_inputs: share of functions of which some coordinates are rounded, as integers and choices are.
        levels: values a rounded coordinate takes (integers, both ends included).
        rounded_values: share of functions that rise in steps.
        rise: height of one step of rounded values, in standard deviations.
        sparse: share of functions that ignore some of their coordinates.
        active: share of the coordinates that such a function depends on, uniform; at least one.
        noisy: share of functions observed with noise.
        noise: its standard deviation, in standard deviations of the function.
        standardised: shift and scale every function to mean 0 and variance 1 over the cube.
        points: uniform points that mean and variance are estimated from.

    >>> FunctionPrior(weights={"gps": 1.0})
    Traceback (most recent call last):
    ...
    factotum.core.checks.UserError: unknown kind of function 'gps': did you mean gp?
    """

    weights: dict[str, float] = field(default_factory=lambda: {"gp": 1.0})
    matern: float = 0.0
    isotropic: float = 1.0
    lengthscale: Range = (0.3, 0.3)
    dimension_power: float = 0.0
    relevance: Range = (0.4, 2.5)
    condition: Range = (1.0, 1e6)
    rotated: float = 0.5
    boundary: float = 0.3
    power: Range = (0.35, 2.0)
    ripple: Range = (0.05, 1.0)
    stiffness: Range = (10.0, 1000.0)
    bend: Range = (1.0, 5.0)
    periods: Range = (1.0, 8.0)
    input_warp: float = 0.0
    warp_spread: float = 0.5
    output_warp: float = 0.0
    tail: Range = (-1.5, 5.0)
    rounded_inputs: float = 0.0
    levels: tuple[int, int] = (2, 12)
    rounded_values: float = 0.0
    rise: Range = (0.05, 0.5)
    sparse: float = 0.0
    active: Range = (0.2, 0.8)
    noisy: float = 0.0
    noise: Range = (0.01, 0.3)
    standardised: bool = True
    points: int = 128

    def __post_init__(self) -> None:
        for name in self.weights:
            if name not in KINDS:
                raise unknown("kind of function", name, KINDS)
        if min(self.weights.values(), default=0.0) < 0 or sum(self.weights.values()) <= 0:
            raise UserError(f"weights: expected at least one above 0 and none below, got {self.weights}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: expected a share between 0 and 1, got {getattr(self, name)}")
        self._check_ranges()

    def _check_ranges(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, tuple) and (len(value) != 2 or value[0] > value[1]):
                raise UserError(f"{each.name}: expected (lowest, highest), got {value}")
        for name in POSITIVE:
            if getattr(self, name)[0] <= 0:
                raise UserError(f"{name}: expected a range above 0, got {getattr(self, name)}")
        if self.levels[0] < 2 or self.points < 2:
            raise UserError(f"levels and points: expected at least 2, got {self.levels} and {self.points}")


def paper_prior() -> FunctionPrior:
    """Smooth Gaussian processes as in the paper: squared-exponential, unit variance, noise-free, not shifted.

    >>> paper_prior().lengthscale, paper_prior().standardised
    ((0.3, 0.3), False)

    Chen et al., 2017, arXiv 1611.03824, training function distribution; its lengthscale is
    not known to us, and .3 is our choice.
    """
    return FunctionPrior(standardised=False)


def broad_prior() -> FunctionPrior:
    """Many kinds of functions: what a sampler meets that has to work without knowing its problem.

    >>> sorted(broad_prior().weights) == sorted(KINDS)
    True
    """
    return FunctionPrior(
        weights={"gp": 3.0, "trend": 1.0, "ripple": 2.0, "quadratic": 1.5, "valley": 1.0, "multimodal": 1.5},
        matern=0.4,
        isotropic=0.3,
        lengthscale=(0.1, 1.0),
        dimension_power=0.5,
        input_warp=0.3,
        output_warp=0.4,
        rounded_inputs=0.15,
        rounded_values=0.1,
        sparse=0.2,
        noisy=0.25,
    )


def log_uniform(between: Range, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers whose logarithms are uniform.

    >>> log_uniform((2.0, 2.0), (2,), torch.Generator()).tolist()
    [2.0, 2.0]
    """
    low, high = math.log(between[0]), math.log(between[1])
    return torch.exp(low + (high - low) * torch.rand(shape, generator=generator, device=generator.device))


def uniform(between: Range, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform numbers.

    >>> uniform((2.0, 2.0), (2,), torch.Generator()).tolist()
    [2.0, 2.0]
    """
    low, high = between
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def chance(share: float, functions: int, generator: torch.Generator) -> Tensor:
    """True for each function with the given probability.

    >>> chance(1.0, 2, torch.Generator()).tolist()
    [True, True]
    """
    return torch.rand(functions, generator=generator, device=generator.device) < share

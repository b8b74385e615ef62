"""Nine classic test functions of two variables, each unbounded in its plane as an optimizer sees it.

The formulas are written so that rounding takes none below its minimum of 0 (differences of near-equal
numbers as `expm1`, squares and sums of squares).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.core.checks import unknown
from factotum.worlds.problems.problem import Data, Parameters, Problem, normal, uniform
from factotum.worlds.problems.quadratics import noise_suffix


def _ackley(x: Tensor, y: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(torch.stack([x, y]), dim=0) / math.sqrt(2)
    # 20 - 20 exp(-.2 |.|) + e - exp((cos 2 pi x + cos 2 pi y) / 2), as sin^2 = (1 - cos) / 2
    waves = (math.pi * x).sin().square() + (math.pi * y).sin().square()
    return -20 * torch.expm1(-0.2 * length) - math.e * torch.expm1(-waves)


def _beale(x: Tensor, y: Tensor) -> Tensor:
    return (1.5 - x + x * y).square() + (2.25 - x + x * y.square()).square() + (2.625 - x + x * y**3).square()


def _booth(x: Tensor, y: Tensor) -> Tensor:
    return (x + 2 * y - 7).square() + (2 * x + y - 5).square()


def _branin(x: Tensor, y: Tensor) -> Tensor:
    valley = y - 5.1 / (4 * math.pi**2) * x.square() + 5 / math.pi * x - 6
    return valley.square() + 10 * (1 - 1 / (8 * math.pi)) * x.cos() + 10


def _log_sum_exp(x: Tensor, y: Tensor) -> Tensor:
    terms = [x + 3 * y - 0.1, x - 3 * y - 0.1, -x - 0.1, torch.zeros_like(x)]
    return torch.stack(terms).logsumexp(0)


def _matyas(x: Tensor, y: Tensor) -> Tensor:
    # .26 (x^2 + y^2) - .48 x y
    return 0.02 * (x.square() + y.square()) + 0.24 * (x - y).square()


def _michalewicz(x: Tensor, y: Tensor) -> Tensor:
    first = x.sin() * (x.square() / math.pi).sin() ** 10
    return 2 - first - y.sin() * (2 * y.square() / math.pi).sin() ** 10


def _rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    return (1 - x).square() + 100 * (y - x.square()).square()


def _styblinski_tang(x: Tensor, y: Tensor) -> Tensor:
    # half the sum of z^4 - 16 z^2 + 5 z, and 80
    z = torch.stack([x, y])
    return 0.5 * ((z.square() - 8).square() + 5 * z).sum(0) + 16


class PlaneFunction(NamedTuple):
    """A function, its greatest lower bound in the whole plane, and the box that starts come from (None: N(0, 1))."""

    evaluate: Callable[[Tensor, Tensor], Tensor]
    minimum: float
    lowest: tuple[float, float] | None = None
    highest: tuple[float, float] | None = None


def _box(
    evaluate: Callable[[Tensor, Tensor], Tensor], minimum: float, low: float, high: float
) -> PlaneFunction:
    return PlaneFunction(evaluate, minimum, (low, low), (high, high))


_STYBLINSKI_TANG = 1.6676685924571757  # where 4 z^3 - 32 z + 5 = 0 for both

PLANE_FUNCTIONS: dict[str, PlaneFunction] = {
    "ackley": _box(_ackley, 0.0, -32.768, 32.768),
    "beale": _box(_beale, 0.0, -4.5, 4.5),
    "booth": _box(_booth, 0.0, -10.0, 10.0),
    "branin": PlaneFunction(_branin, 10 / (8 * math.pi), (-5.0, 0.0), (10.0, 15.0)),
    "log-sum-exp": PlaneFunction(_log_sum_exp, math.log(1 + 2 * math.sqrt(2) * math.exp(-0.1))),
    "matyas": _box(_matyas, 0.0, -10.0, 10.0),
    "michalewicz": _box(_michalewicz, 0.0, 0.0, math.pi),
    "rosenbrock": _box(_rosenbrock, 0.0, -5.0, 10.0),
    "styblinski-tang": _box(_styblinski_tang, _STYBLINSKI_TANG, -5.0, 5.0),
}
"""By name. Michalewicz's lowest value in the square of its starts is .19338; outside of it there are lower
ones, and no greatest lower bound above 0."""


class TwoDimensional(Problem):
    """One of `PLANE_FUNCTIONS`; it has no data, so copies differ in their starts alone.

    Args:
        function: its name.
        noise: standard deviation on the gradient.

    Raises:
        UserError: an unknown name.

    >>> booth = TwoDimensional("booth").draw(2, torch.Generator())
    >>> booth.loss([torch.tensor([[1.0, 3.0], [0.0, 0.0]])]).tolist()
    [0.0, 74.0]

    Wichrowska et al., 2017 (arXiv 1703.04813): problems from the literature; formulas as in Surjanovic and
    Bingham, Virtual Library of Simulation Experiments (sfu.ca/~ssurjano).
    """

    def __init__(self, function: str, noise: float = 0.0) -> None:
        if function not in PLANE_FUNCTIONS:
            raise unknown("function of two variables", function, PLANE_FUNCTIONS)
        self.function = PLANE_FUNCTIONS[function]
        name = function + noise_suffix(noise)
        super().__init__(name, "two-dimensional", [(2,)], self.function.minimum, noise)

    def start(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Uniform in the function's box, or N(0, 1)."""
        if self.function.lowest is None or self.function.highest is None:
            return (normal((batch, 2), generator),)
        low, high = (
            torch.tensor(end, device=generator.device)
            for end in (self.function.lowest, self.function.highest)
        )
        return (low + (high - low) * uniform((batch, 2), generator),)

    def loss(self, parameters: Parameters, data: Data) -> Float[Tensor, " B"]:
        """The function's value."""
        return self.function.evaluate(*parameters[0].unbind(-1))

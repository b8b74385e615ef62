"""Correlated continuous bandits: arms on an interval or a square, near arms pay alike, every pull is noisy.

Local letters: B bandits, T pulls, D dimensions of the arms, M arms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.core.checks import UserError
from factotum.worlds.gp import Functions, draw_functions
from factotum.worlds.prior import FunctionPrior
from factotum.worlds.search import Observation, nothing_observed, observed

ARMS = {1: 512, 2: 64}
"""Points along a side of the grid that the best arm is looked up on."""


class BanditState(NamedTuple):
    """The bandits, the noise of each pull, how many were made, and what the best arm costs."""

    functions: Functions
    noise_BT: Float[Tensor, "B T"]
    made: int
    best_B: Float[Tensor, " B"]


@dataclass(frozen=True)
class Bandit:
    r"""A world of bandits, new ones in each reset: arm x costs $f(x) + \epsilon$, f from a Gaussian process.

    Costs are minimised, as everywhere in this folder; a reward is a negative cost.

    Args:
        batch_size: B, bandits pulled side by side.
        pulls: T.
        dimensions: 1 for arms on an interval, 2 on a square.
        lengthscale: how far arms are alike, in sides of the cube.
        noise: standard deviation of $\epsilon$, where f has 1.
    """

    batch_size: int
    pulls: int
    dimensions: int = 1
    lengthscale: float = 0.2
    noise: float = 0.3

    def __post_init__(self) -> None:
        if self.dimensions not in ARMS:
            raise UserError(f"bandit: expected arms of 1 or 2 dimensions, got {self.dimensions}")
        if self.noise < 0 or self.lengthscale <= 0:
            raise UserError(
                f"bandit: expected noise 0 or more and lengthscale above 0, got {self.noise}, {self.lengthscale}"
            )

    def reset(self, generator: torch.Generator) -> tuple[Observation, BanditState]:
        """New bandits, none pulled yet.

        >>> observation, state = Bandit(2, 10).reset(torch.Generator().manual_seed(0))
        >>> observation.remaining_B.tolist(), state.best_B.shape
        ([10.0, 10.0], torch.Size([2]))
        """
        lengthscale = (self.lengthscale, self.lengthscale)
        prior = FunctionPrior(lengthscale=lengthscale, standardised=False)
        functions = draw_functions(prior, self.batch_size, self.dimensions, generator)
        shape = self.batch_size, self.pulls
        noise_BT = self.noise * torch.randn(shape, generator=generator, device=generator.device)
        grid_MD = arms(self.dimensions).to(generator.device)
        best_B = functions.many(grid_MD.expand(self.batch_size, -1, -1)).amin(-1)
        nothing = nothing_observed(self.batch_size, self.dimensions, self.pulls, generator.device)
        return nothing, BanditState(functions, noise_BT, 0, best_B)

    def step(self, action: Float[Tensor, "B D"], state: BanditState) -> tuple[Observation, BanditState]:
        """Pull one arm of each bandit; differentiable in the arm.

        Raises:
            UserError: all pulls were made.

        >>> bandit = Bandit(1, 10, noise=0.0)
        >>> _, state = bandit.reset(torch.Generator().manual_seed(0))
        >>> observation, state = bandit.step(torch.zeros(1, 1), state)
        >>> observation.y_B.item() >= state.best_B.item()
        True
        """
        if state.made >= self.pulls:
            raise UserError(f"bandit: expected at most {self.pulls} pulls, got one more")
        y_B = state.functions(action) + state.noise_BT[:, state.made]
        made = state.made + 1
        return observed(action, y_B, self.pulls - made), state._replace(made=made)


def regret(state: BanditState, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    """What each pull cost beyond the best arm, without noise.

    >>> _, state = Bandit(1, 10).reset(torch.Generator().manual_seed(0))
    >>> regret(state, arms(1)[None]).amin().item()
    0.0
    """
    return state.functions.many(x_BTD) - state.best_B[:, None]


def arms(dimensions: int) -> Float[Tensor, "M D"]:
    """A fine grid of arms, ends included.

    >>> arms(1).shape, arms(2).shape
    (torch.Size([512, 1]), torch.Size([4096, 2]))
    """
    side = torch.linspace(0, 1, ARMS[dimensions])
    return torch.cartesian_prod(*[side] * dimensions).reshape(-1, dimensions)

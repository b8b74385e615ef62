"""A batch of functions as a world: the action is where to evaluate next, the observation what came of it.

Local letters: B functions, T evaluations, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factotum.core.checks import UserError


class Observation(NamedTuple):
    """The last evaluation, in the order a sampler's core takes it; at first there is none, and x is the centre."""

    x_BD: Float[Tensor, "B D"]
    y_B: Float[Tensor, " B"]
    observed_B: Bool[Tensor, " B"]
    remaining_B: Float[Tensor, " B"]


class SearchState(NamedTuple):
    """What is to come: the noise of each evaluation, and how many were made."""

    noise_BT: Float[Tensor, "B T"]
    made: int


@dataclass(frozen=True)
class FunctionWorld:
    """B functions searched side by side for T evaluations each; differentiable if they are.

    Args:
        functions: x_BD -> y_B.
        batch_size: B.
        dimensions: D.
        evaluations: T.
        noise_B: standard deviation of the observation noise; none by default.
    """

    functions: Callable[[Tensor], Tensor]
    batch_size: int
    dimensions: int
    evaluations: int
    noise_B: Float[Tensor, " B"] | None = None

    def reset(self, generator: torch.Generator) -> tuple[Observation, SearchState]:
        """Nothing evaluated; the noise of the whole search is drawn."""
        device = generator.device if self.noise_B is None else self.noise_B.device
        shape = self.batch_size, self.evaluations
        normal_BT = torch.randn(shape, generator=generator, device=generator.device).to(device)
        deviation_B1 = torch.zeros(1, device=device) if self.noise_B is None else self.noise_B[:, None]
        return nothing_observed(self.batch_size, self.dimensions, self.evaluations, device), SearchState(
            deviation_B1 * normal_BT, 0
        )

    def step(self, action: Float[Tensor, "B D"], state: SearchState) -> tuple[Observation, SearchState]:
        """Evaluate each function at its point.

        Raises:
            UserError: all evaluations were made.

        >>> world = FunctionWorld(lambda x: x.sum(-1), 1, 2, 3)
        >>> observation, state = world.reset(torch.Generator().manual_seed(0))
        >>> observation, state = world.step(torch.ones(1, 2), state)
        >>> observation.y_B.tolist(), observation.remaining_B.tolist()
        ([2.0], [2.0])
        """
        made = state.made + 1
        if made > self.evaluations:
            raise UserError(f"search: expected at most {self.evaluations} evaluations, got one more")
        y_B = self.functions(action) + state.noise_BT[:, state.made]
        return observed(action, y_B, self.evaluations - made), SearchState(state.noise_BT, made)


def nothing_observed(
    batch_size: int, dimensions: int, evaluations: int, device: torch.device | str = "cpu"
) -> Observation:
    """Before the first evaluation.

    >>> nothing_observed(1, 2, 3)[0].tolist()
    [[0.5, 0.5]]
    """
    zero_B = torch.zeros(batch_size, device=device)
    centre_BD = torch.full((batch_size, dimensions), 0.5, device=device)
    return Observation(centre_BD, zero_B, zero_B.bool(), zero_B + evaluations)


def observed(x_BD: Float[Tensor, "B D"], y_B: Float[Tensor, " B"], remaining: int) -> Observation:
    """After an evaluation.

    >>> observed(torch.zeros(1, 2), torch.ones(1), 3).observed_B.item()
    True
    """
    return Observation(x_BD, y_B, torch.ones_like(y_B, dtype=torch.bool), torch.full_like(y_B, remaining))

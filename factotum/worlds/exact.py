"""Exact draws of Gaussian processes, one evaluation after the other.

Local letters: B functions, T evaluations so far, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.core.gaussian_process import Kernel, squared_exponential

JITTER = 1e-8
"""In units of the variance; what is left of the variance at a point that was evaluated before."""


class ExactState(NamedTuple):
    """What was evaluated: points, Cholesky factor of their covariance, and the normal numbers that made the values."""

    x_BTD: Float[Tensor, "B T D"]
    factor_BTT: Float[Tensor, "B T T"]
    white_BT: Float[Tensor, "B T"]


@dataclass(frozen=True)
class ExactDraws:
    r"""Stationary Gaussian processes drawn point by point: $y_t = \mu(x_t) + s(x_t) z_t$, given all before.

    Args:
        lengthscale_BD: of each coordinate.
        variance_B: of the functions.
        kernel: `squared_exponential` or `matern52`.
        noise_B: standard deviation of the observation noise; none by default.
    """

    lengthscale_BD: Float[Tensor, "B D"]
    variance_B: Float[Tensor, " B"]
    kernel: Kernel = squared_exponential
    noise_B: Float[Tensor, " B"] | None = None

    def initial_state(self) -> ExactState:
        """Nothing evaluated yet."""
        functions, dimensions = self.lengthscale_BD.shape
        empty = torch.zeros(functions, 0, dtype=torch.float64, device=self.lengthscale_BD.device)
        return ExactState(
            empty[..., None].expand(-1, -1, dimensions), empty[..., None].expand(-1, -1, 0), empty
        )

    def step(
        self, x_BD: Float[Tensor, "B D"], state: ExactState, generator: torch.Generator
    ) -> tuple[Float[Tensor, " B"], ExactState]:
        r"""One evaluation of each function, O(T^2); differentiable in this point and the ones before.

        $\ell = L^{-1} k(X, x), \; y = \ell^T z + \sqrt{k(x, x) + \sigma^2 - \ell^T \ell} \; z_t$

        Args:
            x_BD: where.
            state: what was evaluated before; stays valid.
            generator: source of the new normal number.

        Returns:
            The values, with noise, and the next state.

        >>> draws = ExactDraws(torch.ones(1, 2), torch.ones(1))
        >>> generator, point = torch.Generator().manual_seed(0), torch.rand(1, 2)
        >>> first, state = draws.step(point, draws.initial_state(), generator)
        >>> again, state = draws.step(point, state, generator)
        >>> torch.allclose(first, again, atol=1e-3)
        True

        Chen et al., 2017, arXiv 1611.03824, training functions; Rasmussen and Williams, 2006, section A.2.
        """
        x, scale, variance_B = x_BD.double(), self.lengthscale_BD.double(), self.variance_B.double()
        noise_B = torch.zeros_like(variance_B) if self.noise_B is None else self.noise_B.double()
        cross_BT1 = variance_B[:, None, None] * self.kernel(state.x_BTD, x[:, None], scale)
        row_BT = torch.linalg.solve_triangular(state.factor_BTT, cross_BT1, upper=False)[..., 0]
        left_B = variance_B + noise_B**2 - (row_BT**2).sum(-1)
        deviation_B = torch.maximum(left_B, JITTER * variance_B).sqrt()
        normal_B = torch.randn(len(x), generator=generator, device=generator.device).to(x)
        y_B = (row_BT * state.white_BT).sum(-1) + deviation_B * normal_B
        last_B1T = torch.cat([row_BT, deviation_B[:, None]], -1)[:, None]
        wider_BTT = torch.nn.functional.pad(state.factor_BTT, (0, 1))
        return y_B.to(x_BD.dtype), ExactState(
            torch.cat([state.x_BTD, x[:, None]], 1),
            torch.cat([wider_BTT, last_B1T], 1),
            torch.cat([state.white_BT, normal_B[:, None]], 1),
        )

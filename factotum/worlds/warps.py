"""Rounded and warped coordinates and values, batched.

Local letters: B functions, N points, D dimensions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.worlds.prior import FunctionPrior, chance, log_uniform, uniform

MARGIN = 1e-3
"""Coordinates are drawn in by this before they are warped: at 0 and 1 the warp may be infinitely steep."""

LARGEST = 5.0
"""From this exponent on warped values go on in a straight line: few points reach it, and none may explode."""


class Inputs(NamedTuple):
    r"""Coordinates as the function sees them: rounded to levels, then $v = 1 - (1 - u^a)^b$ (Kumaraswamy).

    Rounding passes the gradient on unchanged, as if it were not there: its own is zero nearly everywhere.
    """

    levels_BD: Float[Tensor, "B D"] | None = None
    a_BD: Float[Tensor, "B D"] | None = None
    b_BD: Float[Tensor, "B D"] | None = None

    def __call__(self, x_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """The points as the functions see them."""
        if self.levels_BD is not None:
            x_BND = x_BND + self._rounding(x_BND.detach(), self.levels_BD[:, None])
        if self.a_BD is None or self.b_BD is None:
            return x_BND
        u_BND = MARGIN + (1 - 2 * MARGIN) * x_BND
        return 1 - (1 - u_BND ** self.a_BD[:, None]) ** self.b_BD[:, None]

    @staticmethod
    def _rounding(x_BND: Tensor, levels_B1D: Tensor) -> Tensor:
        index_BND = torch.minimum((x_BND * levels_B1D).floor(), levels_B1D - 1)
        return torch.where(levels_B1D > 0, index_BND / (levels_B1D - 1) - x_BND, 0.0)


class Outputs(NamedTuple):
    r"""$y = (T(r) - m) / s$ with $T(r) = (\exp(\alpha q) - 1) / \alpha$, $q = (r - m_r) / s_r$; then rounded.

    Rounding passes the gradient on unchanged.
    """

    mean_B: Float[Tensor, " B"] | None = None
    scale_B: Float[Tensor, " B"] | None = None
    alpha_B: Float[Tensor, " B"] | None = None
    raw_mean_B: Float[Tensor, " B"] | None = None
    raw_scale_B: Float[Tensor, " B"] | None = None
    step_B: Float[Tensor, " B"] | None = None

    def __call__(self, raw_BN: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """Values as they are observed, but for noise."""
        y_BN = self.warp(raw_BN)
        if self.mean_B is not None and self.scale_B is not None:
            y_BN = (y_BN - self.mean_B[:, None]) / self.scale_B[:, None]
        if self.step_B is None:
            return y_BN
        flat_BN, step_B1 = y_BN.detach(), self.step_B[:, None]
        return y_BN + torch.where(step_B1 > 0, (flat_BN / step_B1).round() * step_B1 - flat_BN, 0.0)

    def warp(self, raw_BN: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """T."""
        if self.alpha_B is None or self.raw_mean_B is None or self.raw_scale_B is None:
            return raw_BN
        exponent_BN = (raw_BN - self.raw_mean_B[:, None]) * (self.alpha_B / self.raw_scale_B)[:, None]
        below_BN = exponent_BN.clamp(max=LARGEST)
        beyond_BN = math.exp(LARGEST) * (exponent_BN - below_BN)
        return (torch.expm1(below_BN) + beyond_BN) / self.alpha_B[:, None]

    def standardised(
        self, raw_BN: Float[Tensor, "B N"], tail_B: Float[Tensor, " B"], dimensions: int
    ) -> Outputs:
        r"""Mean 0 and variance 1 over the N points, and alpha where there are tails.

        The lowest value is taken to be at least $1.2 \sqrt D$ standard deviations below the mean: about where
        processes and cones have it, and random points miss it ever more widely in more dimensions.

        Args:
            raw_BN: values before the warp.
            tail_B: exponent of the highest value where above 0, of the lowest where below, no warp where 0.
            dimensions: D.

        Returns:
            Outputs with all but `step_B` set.
        """
        outputs = self
        if tail_B.any():
            mean_B, scale_B = raw_BN.mean(-1), _spread(raw_BN)
            low_B = ((mean_B - raw_BN.amin(-1)) / scale_B).clamp(min=1.2 * math.sqrt(dimensions))
            high_B = ((raw_BN.amax(-1) - mean_B) / scale_B).clamp(min=1.0)
            alpha_B = tail_B / torch.where(tail_B > 0, high_B, low_B)
            # almost 0 is the identity without a division by 0
            alpha_B = torch.where(alpha_B.abs() < 1e-3, 1e-3, alpha_B)
            outputs = outputs._replace(alpha_B=alpha_B, raw_mean_B=mean_B, raw_scale_B=scale_B)
        warped_BN = outputs.warp(raw_BN)
        return outputs._replace(mean_B=warped_BN.mean(-1), scale_B=_spread(warped_BN))


def _spread(value_BN: Tensor) -> Tensor:
    return value_BN.std(-1).clamp(min=1e-6)  # a function may be constant: all its levels may give one value


def draw_inputs(prior: FunctionPrior, functions: int, dimensions: int, generator: torch.Generator) -> Inputs:
    """How the coordinates of each function are rounded and warped; None where none are.

    Args:
        prior: shares and ranges.
        functions: B.
        dimensions: D.
        generator: source of all randomness.

    Returns:
        Inputs.
    """
    shape = functions, dimensions
    rounded_B = chance(prior.rounded_inputs, functions, generator)
    warped_B = chance(prior.input_warp, functions, generator)
    inputs = Inputs()
    if rounded_B.any():
        levels_BD = uniform((prior.levels[0], prior.levels[1] + 1), shape, generator).floor()
        some_BD = uniform((0, 1), shape, generator) < uniform((0, 1), (functions, 1), generator)
        inputs = inputs._replace(levels_BD=levels_BD * (some_BD & rounded_B[:, None]))
    if warped_B.any():
        normal_2BD = torch.randn(2, *shape, generator=generator, device=generator.device)
        a_BD, b_BD = torch.exp(prior.warp_spread * normal_2BD * warped_B[:, None])
        inputs = inputs._replace(a_BD=a_BD, b_BD=b_BD)
    return inputs


def draw_steps(prior: FunctionPrior, functions: int, generator: torch.Generator) -> Outputs:
    """How the values of each function are rounded, not yet standardised.

    Args:
        prior: shares and ranges.
        functions: B.
        generator: source of all randomness.

    Returns:
        Outputs with `step_B` alone, None where no values are rounded.
    """
    rounded_B = chance(prior.rounded_values, functions, generator)
    step_B = log_uniform(prior.rise, (functions,), generator) * rounded_B
    return Outputs(step_B=step_B) if rounded_B.any() else Outputs()

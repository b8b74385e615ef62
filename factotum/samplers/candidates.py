"""Which points does a step choose from? Random ones over the cube and around the best points seen.

What it does not know: networks, values, the surrogate. Local letters: B functions, N points seen, C candidates, L of
them local, K centres, D dimensions. All in double precision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Snap = Callable[[Tensor], Tensor]
"""Points of the cube, `... D`, to the nearest ones that can be evaluated."""

CLOSER = 48
"""Points around the best candidate among which the choice is refined."""

CENTRES = 5
"""Best points seen around which candidates lie."""


class Draws(NamedTuple):
    """What is random in C candidates and `CLOSER` others."""

    uniform_BCD1: Float[Tensor, "B C D1"]
    """places or masks of coordinates; the last one: scales"""
    normal_BLD: Float[Tensor, "B L D"]
    """of local candidates, those `CLOSER` included"""


class Recipe(NamedTuple):
    """How L local candidates are made."""

    share_L1: Float[Tensor, "L 1"]
    """of the coordinates, that which moves"""
    low_L1: Float[Tensor, "L 1"]
    """logarithm of the least scale, in lengthscales"""
    range_L1: Float[Tensor, "L 1"]
    """from there to the logarithm of the largest"""
    centre_L: Int[Tensor, " L"]
    """place of the centre among the best points"""


def draw(seed: int, shape: tuple[int, int, int], device: torch.device) -> Draws:
    """For B x C spread candidates of D coordinates, and for those closer to the best of them."""
    B, C, D = shape
    generator = torch.Generator(device=device).manual_seed(seed)
    uniform = torch.rand(B, C + CLOSER, D + 1, generator=generator, device=device)
    return Draws(uniform, torch.randn(B, C - C // 3 + CLOSER, D, generator=generator, device=device))


def spread(
    x_BND: Float[Tensor, "B N D"],
    places_BK: Int[Tensor, "B K"],
    lengthscale_BD: Float[Tensor, "B D"],
    draws: Draws,
    snap: Snap | None = None,
) -> Float[Tensor, "B C D"]:
    """A third spread over the cube, half around the best point, a sixth around the five best.

    Args:
        x_BND: points seen.
        places_BK: where the best of them are, the best first; up to `CENTRES`.
        lengthscale_BD: of the surrogate; more than 1 count as 1.
        draws: of `draw`.
        snap: to what can be evaluated.
    """
    uniform_BCD1, normal_BLD = draws.uniform_BCD1[:, :-CLOSER], draws.normal_BLD[:, :-CLOSER]
    C, (L, D), K = uniform_BCD1.shape[1], normal_BLD.shape[1:], places_BK.shape[1]
    wide = C - L
    share_L1, low_L1, range_L1, centre_L = spread_recipe(C, D, K, x_BND.device)
    centre_BLD = x_BND.gather(1, places_BK[:, centre_L, None].expand(-1, -1, D))
    scale_BL1 = torch.addcmul(low_L1, uniform_BCD1[:, wide:, -1:].double(), range_L1).exp()
    moves_BLD = normal_BLD * (uniform_BCD1[:, wide:, :-1] < share_L1)
    reach_BLD = scale_BL1 * lengthscale_BD.clamp(max=1.0)[:, None]
    local_BLD = torch.addcmul(centre_BLD, moves_BLD.double(), reach_BLD).clamp(0.0, 1.0)
    points_BCD = torch.cat([uniform_BCD1[:, :wide, :-1].double(), local_BLD], 1)
    return points_BCD if snap is None else snap(points_BCD)


def closer(
    x_BD: Float[Tensor, "B D"], lengthscale_BD: Float[Tensor, "B D"], draws: Draws, snap: Snap | None = None
) -> Float[Tensor, "B C D"]:
    """A point, and others around it."""
    uniform_BCD1, normal_BLD = draws.uniform_BCD1[:, -CLOSER:], draws.normal_BLD[:, -CLOSER:]
    share_L1, low_L1, range_L1, _ = closer_recipe(x_BD.shape[1], x_BD.device)
    scale_BL1 = torch.addcmul(low_L1, uniform_BCD1[..., -1:].double(), range_L1).exp()
    moves_BLD = normal_BLD * (uniform_BCD1[..., :-1] < share_L1)
    reach_BLD = scale_BL1 * lengthscale_BD.clamp(max=1.0)[:, None]
    points_BLD = torch.addcmul(x_BD[:, None], moves_BLD.double(), reach_BLD).clamp(0.0, 1.0)
    return torch.cat([x_BD[:, None], points_BLD if snap is None else snap(points_BLD)], 1)


@cache
@torch.inference_mode(False)
def spread_recipe(count: int, dimensions: int, centres: int, device: torch.device) -> Recipe:
    """Of C - C // 3 local candidates: C // 2 around the best point, the others around all centres in turn."""
    local, near = count - count // 3, count // 2
    index_L = torch.arange(local, device=device)
    low_L1 = torch.where(index_L < 3 * local // 4, -7.0, -3.0).double()[:, None]
    centre_L = torch.where(index_L < near, 0, (index_L - near) % centres)
    return Recipe(_share(index_L, dimensions), low_L1, 0.5 - low_L1, centre_L)


@cache
@torch.inference_mode(False)
def closer_recipe(dimensions: int, device: torch.device) -> Recipe:
    """Of `CLOSER` candidates around one point."""
    index_L = torch.arange(CLOSER, device=device)
    low_L1 = torch.full((CLOSER, 1), -6.0, dtype=torch.float64, device=device)
    return Recipe(
        _share(index_L, dimensions), low_L1, torch.full_like(low_L1, 5.5), torch.zeros_like(index_L)
    )


def _share(index_L: Tensor, dimensions: int) -> Tensor:
    """Every second candidate moves in all coordinates, the others in few."""
    return torch.where(index_L % 2 == 0, 1.0, max(1.5 / dimensions, 0.3))[:, None]

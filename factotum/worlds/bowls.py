"""Functions with one centre: quadratics, cones, curved valleys and planes, batched.

Local letters: B functions, N points, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factotum.worlds.prior import FunctionPrior, chance, log_uniform

SMALLEST = 1e-6
"""Keeps the slope of a power below 1 finite at the centre."""


class Bowls(NamedTuple):
    r"""$h(v) = a \, (\sum_k s_k^2 (z_k - \beta z_{k-1}^2)^2)^p$ with $z = R v + b$ and $z_0 = 0$, B functions.

    $\beta = 0$ is a quadratic (p = 1), a cone (p = 1/2), or with one row only a plane; otherwise the
    valley of Rosenbrock's function, whose one minimum is at z = 0 too.
    """

    axes_BDD: Float[Tensor, "B D D"]
    offset_BD: Float[Tensor, "B D"]
    slope_BD: Float[Tensor, "B D"]
    bend_B: Float[Tensor, " B"]
    power_B: Float[Tensor, " B"]
    height_B: Float[Tensor, " B"]

    def __call__(self, v_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
        """Values at the points."""
        z_BND = torch.baddbmm(self.offset_BD[:, None], v_BND, self.axes_BDD.mT)
        if z_BND.shape[-1] > 1:
            before_BND = torch.nn.functional.pad(z_BND[..., :-1], (1, 0))
            z_BND = torch.addcmul(z_BND, before_BND * self.bend_B[:, None, None], before_BND, value=-1)
        square_BN = (z_BND * self.slope_BD[:, None]).square().sum(-1)
        return self.height_B[:, None] * (square_BN + SMALLEST) ** self.power_B[:, None]


def random_axes(
    rotated_B: Bool[Tensor, " B"], dimensions: int, generator: torch.Generator
) -> Float[Tensor, "B D D"]:
    """Rotations, uniform over all of them, or shuffled coordinates.

    >>> axes = random_axes(torch.tensor([False]), 3, torch.Generator().manual_seed(0))
    >>> axes.sum(-1).tolist(), axes.sum(-2).tolist()
    ([[1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0]])
    """
    functions, device = len(rotated_B), generator.device
    order_BD = torch.rand(functions, dimensions, generator=generator, device=device).argsort(-1)
    axes_BDD = torch.nn.functional.one_hot(order_BD, dimensions).float()
    gauss_BDD = torch.randn(functions, dimensions, dimensions, generator=generator, device=device)
    q_BDD, r_BDD = torch.linalg.qr(gauss_BDD)
    q_BDD = q_BDD * r_BDD.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    return torch.where(rotated_B[:, None, None], q_BDD, axes_BDD)


def random_centres(
    boundary_B: Bool[Tensor, " B"], dimensions: int, generator: torch.Generator
) -> Float[Tensor, "B D"]:
    """Uniform in the cube; at the boundary: uniform in a cube 1.5 times as wide, then clamped into it.

    >>> random_centres(torch.tensor([True] * 500), 1, torch.Generator().manual_seed(0)).eq(0).float().mean().item()
    0.1...
    """
    inside_BD = torch.rand(len(boundary_B), dimensions, generator=generator, device=generator.device)
    return torch.where(boundary_B[:, None], (1.5 * inside_BD - 0.25).clamp(0, 1), inside_BD)


def draw_bowls(
    prior: FunctionPrior,
    kinds: dict[str, Bool[Tensor, " B"]],
    active_BD: Float[Tensor, "B D"],
    generator: torch.Generator,
) -> Bowls:
    """The bowl of every function, of height 1; functions without one get one too, and `height_B` takes it away.

    Args:
        prior: ranges.
        kinds: which functions are of each kind.
        active_BD: 0 where a coordinate is ignored, else 1.
        generator: source of all randomness.

    Returns:
        The bowls.
    """
    functions, dimensions = active_BD.shape
    axes_BDD = random_axes(chance(prior.rotated, functions, generator), dimensions, generator)
    axes_BDD = axes_BDD * active_BD[:, None]
    centre_BD = random_centres(chance(prior.boundary, functions, generator), dimensions, generator)
    bend_B = log_uniform(prior.bend, (functions,), generator) * kinds["valley"]
    power_B = log_uniform(prior.power, (functions,), generator)
    bowls = Bowls(
        axes_BDD,
        -torch.einsum("bkd,bd->bk", axes_BDD, centre_BD),
        _slopes(prior, kinds, dimensions, generator),
        bend_B,
        torch.where(kinds["valley"], power_B.clamp(max=1), power_B),  # a valley is of fourth order already
        torch.ones_like(bend_B),
    )
    return _flatten(bowls, kinds["trend"], active_BD, generator) if kinds["trend"].any() else bowls


def _slopes(
    prior: FunctionPrior, kinds: dict[str, Tensor], dimensions: int, generator: torch.Generator
) -> Float[Tensor, "B D"]:
    functions = len(kinds["valley"])
    condition_B = log_uniform(prior.condition, (functions,), generator)
    # cosines hide every axis of a bowl that is much longer than the others
    condition_B = torch.where(kinds["multimodal"], condition_B ** (1 / 6), condition_B)
    place_BD = torch.rand(functions, dimensions, generator=generator, device=generator.device)
    place_BD = place_BD - place_BD.amin(-1, keepdim=True)
    place_BD = place_BD / place_BD.amax(-1, keepdim=True).clamp(min=SMALLEST)
    across_BD = condition_B[:, None] ** (-0.5 * place_BD)
    along_BD = torch.ones_like(across_BD)
    along_BD[:, 0] = log_uniform(prior.stiffness, (functions,), generator) ** -0.5
    return torch.where(kinds["valley"][:, None], along_BD, across_BD)


def _flatten(
    bowls: Bowls, plane_B: Bool[Tensor, " B"], active_BD: Float[Tensor, "B D"], generator: torch.Generator
) -> Bowls:
    """Planes for some of the functions: $|a^T v + c|$ with all of the cube on one side."""
    device = generator.device
    direction_BD = torch.randn(active_BD.shape, generator=generator, device=device) * active_BD
    direction_BD = torch.nn.functional.normalize(direction_BD, dim=-1)
    first_D = torch.zeros(active_BD.shape[1], device=device)
    first_D[0] = 1
    distance_B = direction_BD.clamp(max=0).sum(-1).neg() + 0.05
    each = plane_B[:, None]
    return bowls._replace(
        axes_BDD=torch.where(each[..., None], first_D[:, None] * direction_BD[:, None], bowls.axes_BDD),
        offset_BD=torch.where(each, first_D * distance_B[:, None], bowls.offset_BD),
        slope_BD=torch.where(each, 1.0, bowls.slope_BD),
        power_B=torch.where(plane_B, 0.5, bowls.power_B),
    )

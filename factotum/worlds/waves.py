"""Sums of random cosines: draws of stationary Gaussian processes that are cheap to evaluate anywhere.

Local letters: B functions, N points, D dimensions, M cosines.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from factotum.worlds.prior import FunctionPrior, chance, log_uniform


class Waves(NamedTuple):
    r"""$g(v) = \sum_m w_m \cos(\omega_m^T v + \phi_m)$ for each of B functions."""

    frequencies_BDM: Float[Tensor, "B D M"]
    phases_BM: Float[Tensor, "B M"]
    weights_BM: Float[Tensor, "B M"]

    def __call__(self, v_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
        """Values at the points, differentiable once in them."""
        return _SumOfCosines.apply(v_BND, *self)


def process_waves(
    lengthscale_BD: Float[Tensor, "B D"],
    matern_B: Bool[Tensor, " B"],
    features: int,
    generator: torch.Generator,
) -> Waves:
    r"""Random Fourier features of Gaussian processes of unit variance.

    $\phi_m \sim U(0, 2\pi), \; w_m \sim \sqrt{2/M}\, N(0, 1)$; $\omega_m \sim N(0, \mathrm{diag}(\ell)^{-2})$ for the
    squared-exponential kernel, and the same divided by $\sqrt{\chi^2_5 / 5}$ (Student's t) for Matern-5/2.

    Args:
        lengthscale_BD: infinite where a coordinate is ignored.
        matern_B: the kernel, Matern-5/2 or squared-exponential.
        features: M.
        generator: the draws are made on its device.

    Returns:
        M cosines for each function.

    >>> one = torch.ones(1, 2)
    >>> waves = process_waves(one, one[:, 0] > 0, 8, torch.Generator().manual_seed(0))
    >>> waves(torch.zeros(1, 3, 2)).shape
    torch.Size([1, 3])

    Rahimi and Recht, 2007, Random features for large-scale kernel machines, algorithm 1.
    """
    functions, dimensions = lengthscale_BD.shape
    device = generator.device
    normal_BDM = torch.randn(functions, dimensions, features, generator=generator, device=device)
    if bool(matern_B.any()):
        square_BM = torch.randn(5, functions, features, generator=generator, device=device).square().mean(0)
        normal_BDM = normal_BDM * torch.where(matern_B[:, None], square_BM.rsqrt(), 1.0)[:, None]
    phases_BM = 2 * math.pi * torch.rand(functions, features, generator=generator, device=device)
    weights_BM = torch.randn(functions, features, generator=generator, device=device)
    return Waves(normal_BDM / lengthscale_BD[..., None], phases_BM, weights_BM * math.sqrt(2 / features))


def draw_waves(
    prior: FunctionPrior,
    kinds: dict[str, Bool[Tensor, " B"]],
    active_BD: Float[Tensor, "B D"],
    generator: torch.Generator,
) -> Waves:
    """The process of every function; functions without one get weights of zero.

    Args:
        prior: ranges.
        kinds: which functions are of each kind.
        active_BD: 0 where a coordinate is ignored, else 1.
        generator: source of all randomness.

    Returns:
        The waves.
    """
    functions, dimensions = active_BD.shape
    scale_B = log_uniform(prior.lengthscale, (functions,), generator) * dimensions**prior.dimension_power
    relevance_BD = log_uniform(prior.relevance, (functions, dimensions), generator)
    same_B = chance(prior.isotropic, functions, generator)
    lengthscale_BD = scale_B[:, None] * torch.where(same_B[:, None], 1.0, relevance_BD)
    matern_B = chance(prior.matern, functions, generator)
    waves = process_waves(lengthscale_BD / active_BD, matern_B, features(dimensions), generator)
    height_B = torch.where(kinds["ripple"], log_uniform(prior.ripple, (functions,), generator), 1.0)
    height_B = height_B * (kinds["gp"] | kinds["trend"] | kinds["ripple"])
    return waves._replace(weights_BM=waves.weights_BM * height_B[:, None])


def add_cosines(
    prior: FunctionPrior,
    waves: Waves,
    multimodal_B: Bool[Tensor, " B"],
    axes_BDD: Float[Tensor, "B D D"],
    offset_BD: Float[Tensor, "B D"],
    generator: torch.Generator,
) -> Waves:
    r"""Rastrigin's $-a \sum_k \cos(2 \pi n z_k)$, with z = R v + b of the bowl, in place of the first D waves.

    Args:
        prior: ranges.
        waves: what is there.
        multimodal_B: which functions get it.
        axes_BDD: R.
        offset_BD: b.
        generator: source of all randomness.

    Returns:
        The waves.
    """
    functions, dimensions = offset_BD.shape
    periods_B1 = 2 * math.pi * log_uniform(prior.periods, (functions, 1), generator)
    height_B1 = log_uniform(prior.ripple, (functions, 1), generator) * math.sqrt(2 / dimensions)
    each = multimodal_B[:, None]
    first = slice(0, dimensions)
    frequencies_BDM, phases_BM, weights_BM = (tensor.clone() for tensor in waves)
    frequencies_BDM[..., first] = torch.where(
        each[..., None], periods_B1[..., None] * axes_BDD.mT, frequencies_BDM[..., first]
    )
    phases_BM[:, first] = torch.where(each, periods_B1 * offset_BD, phases_BM[:, first])
    weights_BM[:, first] = torch.where(each, -height_B1, weights_BM[:, first])
    return Waves(frequencies_BDM, phases_BM, weights_BM)


def features(dimensions: int) -> int:
    """M, enough for the covariance to be right to a few hundredths in each single function.

    >>> features(2), features(6)
    (200, 500)
    """
    return 200 if dimensions <= 3 else 500


class _SumOfCosines(torch.autograd.Function):
    """The gradient is computed on the way forward: what is kept for the way back is B x N x D, not B x N x M.

    Backpropagation through a hundred evaluations keeps a hundred of these.
    """

    @staticmethod
    def forward(
        ctx: Any, v_BND: Tensor, frequencies_BDM: Tensor, phases_BM: Tensor, weights_BM: Tensor
    ) -> Tensor:
        angle_BNM = torch.baddbmm(phases_BM[:, None], v_BND, frequencies_BDM)
        if ctx.needs_input_grad[0]:
            slope_BNM = angle_BNM.sin().mul_(weights_BM[:, None])
            ctx.save_for_backward(torch.bmm(slope_BNM, frequencies_BDM.mT).neg_())
        return torch.bmm(angle_BNM.cos_(), weights_BM[..., None])[..., 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_BN: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_BND,) = ctx.saved_tensors
        return gradient_BND * upstream_BN[..., None], None, None, None

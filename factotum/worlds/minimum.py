"""The lowest value of a cheap, differentiable function in the unit cube, by brute force.

Local letters: D dimensions, K points.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

SAMPLES = 4096
STARTS = 12
STEPS = 80
DIFFERENCE = 1e-5


def lowest(
    evaluate: Callable[[Tensor], Tensor], guesses_KD: Float[Tensor, "K D"], generator: torch.Generator
) -> tuple[float, Float[Tensor, " D"]]:
    """Projected Newton steps in double precision from the guesses and from the best of many random points.

    Args:
        evaluate: (..., D) -> (...).
        guesses_KD: points in the cube.
        generator: source of the random points, on the CPU.

    Returns:
        The lowest value found, and where.

    >>> guesses = torch.full((1, 2), 0.5, dtype=torch.float64)
    >>> lowest(lambda x: ((x - 2) ** 2).sum(-1), guesses, torch.Generator().manual_seed(0))
    (2.0, tensor([1., 1.], dtype=torch.float64))
    """
    dimensions = guesses_KD.shape[1]
    random_KD = torch.rand(SAMPLES, dimensions, generator=generator, dtype=torch.float64)
    best_K = evaluate(random_KD).topk(STARTS, largest=False).indices
    x_KD = _newton(evaluate, torch.cat([guesses_KD.double(), random_KD[best_K]]))
    y_K = evaluate(x_KD)
    return y_K.min().item(), x_KD[y_K.argmin()]


def _newton(evaluate: Callable[[Tensor], Tensor], x_KD: Tensor) -> Tensor:
    """Levenberg-damped Newton steps on the coordinates that the walls leave free; a step may only go down."""
    damping_K, y_K = torch.ones(len(x_KD), dtype=x_KD.dtype), evaluate(x_KD)
    for _ in range(STEPS):
        gradient_KD, hessian_KDD = _slope_and_curvature(evaluate, x_KD)
        free_KD = ((x_KD > 0) | (gradient_KD < 0)) & ((x_KD < 1) | (gradient_KD > 0))
        pairs_KDD = (free_KD[:, None] & free_KD[:, :, None]).to(x_KD)
        values_KD, vectors_KDD = torch.linalg.eigh(hessian_KDD * pairs_KDD)
        # saddles: every curvature counts as if it went up; the damping is in units of the largest
        values_KD = values_KD.abs() + (damping_K * values_KD.abs().amax(-1) + 1e-12)[:, None]
        inverse_KDD = (vectors_KDD / values_KD[:, None]) @ vectors_KDD.mT
        move_KD = (inverse_KDD @ (gradient_KD * free_KD)[..., None])[..., 0]
        tried_KD = (x_KD - move_KD).clamp(0, 1)
        tried_K = evaluate(tried_KD)
        better_K = tried_K < y_K
        if not better_K.any() and bool((damping_K > 1e6).all()):
            break
        x_KD, y_K = torch.where(better_K[:, None], tried_KD, x_KD), torch.where(better_K, tried_K, y_K)
        damping_K = (damping_K * torch.where(better_K, 0.3, 4.0)).clamp(1e-12, 1e12)
    return x_KD


def _slope_and_curvature(evaluate: Callable[[Tensor], Tensor], x_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients, and Hessians by central differences of gradients: exact to about 1e-9 in double precision."""
    offset_DD = DIFFERENCE * torch.eye(x_KD.shape[1], dtype=x_KD.dtype)
    near_SKD = torch.cat([x_KD[None], x_KD + offset_DD[:, None], x_KD - offset_DD[:, None]]).requires_grad_()
    with torch.enable_grad():
        (slope_SKD,) = torch.autograd.grad(evaluate(near_SKD).sum(), near_SKD)
    here_KD, above_DKD, below_DKD = slope_SKD.split([1, x_KD.shape[1], x_KD.shape[1]])
    hessian_KDD = ((above_DKD - below_DKD) / (2 * DIFFERENCE)).transpose(0, 1)
    return here_KD[0], 0.5 * (hessian_KDD + hessian_KDD.mT)

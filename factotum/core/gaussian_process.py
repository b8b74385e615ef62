"""Gaussian processes with known hyper-parameters: kernels and exact posteriors, batched over functions.

Local letters: B functions, N points with values, M queries, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`kernel(a_BND, b_BMD, lengthscale_BD) -> K_BNM`, one on the diagonal."""

JITTERS = (1e-9, 1e-7, 1e-5)
"""Tried one after the other, in units of the variance, until the covariance has a Cholesky factor."""


def squared_exponential(a_BND: Tensor, b_BMD: Tensor, lengthscale_BD: Tensor) -> Tensor:
    r"""$k(a, b) = \exp(-r^2 / 2)$ with $r^2 = \sum_d (a_d - b_d)^2 / \ell_d^2$: infinitely smooth functions.

    Args:
        a_BND: N points of each of B functions.
        b_BMD: M points of each of B functions.
        lengthscale_BD: $\ell$.

    Returns:
        K_BNM.

    >>> squared_exponential(torch.zeros(1, 1, 2), torch.ones(1, 1, 2), torch.ones(1, 2)).item()
    0.3678...
    """
    return torch.exp(-0.5 * _distance(a_BND, b_BMD, lengthscale_BD) ** 2)


def matern52(a_BND: Tensor, b_BMD: Tensor, lengthscale_BD: Tensor) -> Tensor:
    r"""$k(a, b) = (1 + \sqrt5 r + \tfrac53 r^2) \exp(-\sqrt5 r)$, r as above: twice differentiable functions.

    Args:
        a_BND: N points of each of B functions.
        b_BMD: M points of each of B functions.
        lengthscale_BD: $\ell$.

    Returns:
        K_BNM.

    >>> matern52(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), torch.ones(1, 1)).item()
    0.5239...
    """
    r_BNM = math.sqrt(5) * _distance(a_BND, b_BMD, lengthscale_BD)
    return (1 + r_BNM + r_BNM**2 / 3) * torch.exp(-r_BNM)


def _distance(a_BND: Tensor, b_BMD: Tensor, lengthscale_BD: Tensor) -> Tensor:
    # not through inner products: they lose the digits that tell near points apart.
    # The gradient of cdist at distance 0 is 0, which is right for both kernels.
    inverse_B1D = 1 / lengthscale_BD[:, None]
    return torch.cdist(a_BND * inverse_B1D, b_BMD * inverse_B1D, compute_mode="donot_use_mm_for_euclid_dist")


def posterior(
    x_BND: Tensor,
    y_BN: Tensor,
    query_BMD: Tensor,
    *,
    kernel: Kernel,
    lengthscale_BD: Tensor,
    variance_B: Tensor,
    noise_B: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Mean and standard deviation of the latent function at the queries, given noisy values.

    $\mu = k_*^T (K + \sigma^2 I)^{-1} y, \quad s^2 = k_{**} - k_*^T (K + \sigma^2 I)^{-1} k_*$

    Computed in double precision, differentiable in everything.

    Args:
        x_BND: points with values; N = 0 gives the prior.
        y_BN: their values.
        query_BMD: points to predict at.
        kernel: `squared_exponential` or `matern52`.
        lengthscale_BD: $\ell$.
        variance_B: prior variance of the functions.
        noise_B: $\sigma$, standard deviation of the observation noise.

    Returns:
        mean_BM and deviation_BM, of the dtype of the queries.

    >>> one, x = torch.ones(1), torch.tensor([[[0.2]]])
    >>> mean, deviation = posterior(x, one[None], x, kernel=squared_exponential,
    ...                             lengthscale_BD=one[None], variance_B=one, noise_B=0 * one)
    >>> round(mean.item(), 4), round(deviation.item(), 4)
    (1.0, 0.0)

    Rasmussen and Williams, 2006, algorithm 2.1.
    """
    x, y, query, scale, variance, noise = (
        tensor.double() for tensor in (x_BND, y_BN, query_BMD, lengthscale_BD, variance_B, noise_B)
    )
    factor_BNN = _cholesky(kernel(x, x, scale), variance, noise)
    cross_BNM = variance[:, None, None] * kernel(x, query, scale)
    solved_BNM = torch.linalg.solve_triangular(factor_BNN, cross_BNM, upper=False)
    white_BN1 = torch.linalg.solve_triangular(factor_BNN, y[..., None], upper=False)
    mean_BM = (solved_BNM * white_BN1).sum(1)
    left_BM = variance[:, None] - (solved_BNM**2).sum(1)
    return mean_BM.to(query_BMD.dtype), _root(left_BM, variance).to(query_BMD.dtype)


def sequential_posterior(
    x_BND: Tensor,
    y_BN: Tensor,
    *,
    kernel: Kernel,
    lengthscale_BD: Tensor,
    variance_B: Tensor,
    noise_B: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Mean and deviation at each point given only the values before it, all from one Cholesky factor.

    With $K + \sigma^2 I = L L^T$ and $L z = y$: $\mu_t = \sum_{i<t} L_{ti} z_i, \; s_t^2 = L_{tt}^2 - \sigma^2$,
    since the leading block of L is the factor of the leading block. O(N^3) for all N posteriors.

    Args:
        x_BND: points in the order of evaluation.
        y_BN: their values.
        kernel: `squared_exponential` or `matern52`.
        lengthscale_BD: $\ell$.
        variance_B: prior variance of the functions.
        noise_B: $\sigma$, standard deviation of the observation noise.

    Returns:
        mean_BN and deviation_BN of the latent function, of the dtype of the points.

    >>> one, x = torch.ones(1), torch.tensor([[[0.2], [0.2]]])
    >>> mean, deviation = sequential_posterior(x, torch.ones(1, 2), kernel=matern52,
    ...                                        lengthscale_BD=one[None], variance_B=one, noise_B=0 * one)
    >>> mean.round(decimals=4).tolist(), deviation.round(decimals=4).tolist()
    ([[0.0, 1.0]], [[1.0, 0.0...]])
    """
    x, y, scale, variance, noise = (
        tensor.double() for tensor in (x_BND, y_BN, lengthscale_BD, variance_B, noise_B)
    )
    factor_BNN = _cholesky(kernel(x, x, scale), variance, noise)
    white_BN1 = torch.linalg.solve_triangular(factor_BNN, y[..., None], upper=False)
    mean_BN = (factor_BNN.tril(-1) @ white_BN1)[..., 0]
    left_BN = factor_BNN.diagonal(dim1=-2, dim2=-1) ** 2 - noise[:, None] ** 2
    return mean_BN.to(x_BND.dtype), _root(left_BN, variance).to(x_BND.dtype)


def _cholesky(correlation_BNN: Tensor, variance_B: Tensor, noise_B: Tensor) -> Tensor:
    """Factor of the covariance of the observations, with the smallest jitter that gives one."""
    eye_NN = torch.eye(correlation_BNN.shape[-1], dtype=torch.float64, device=correlation_BNN.device)
    for jitter in JITTERS:
        diagonal_B = noise_B**2 + jitter * variance_B
        covariance_BNN = variance_B[:, None, None] * correlation_BNN + diagonal_B[:, None, None] * eye_NN
        factor_BNN, info_B = torch.linalg.cholesky_ex(covariance_BNN)
        if not info_B.any():
            return factor_BNN
    return torch.linalg.cholesky(covariance_BNN)  # says which function has none


def _root(left: Tensor, variance_B: Tensor) -> Tensor:
    # rounding may leave a variance below zero; the floor also keeps the gradient of the root finite
    return torch.maximum(left, 1e-12 * variance_B[:, None]).sqrt()

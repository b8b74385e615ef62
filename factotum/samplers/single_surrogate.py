"""What `factotum.samplers.surrogate` computes, for one function and without gradients.

The same equations in NumPy, whose calls cost less than PyTorch's where arrays are small; large products, special
functions and factors stay with PyTorch. Equality is tested.
Local letters as there, without B; points are scaled by $\sqrt 5$ over the lengthscales, so that squared distances
are $s^2$.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from factotum.samplers.surrogate import CERTAIN, JITTER, NEAREST, OFFSET, VIEWS

Array = np.ndarray[Any, np.dtype[Any]]

SMALL = 200_000
"""Multiplications of a product that NumPy's library does without threads."""


class Fit(NamedTuple):
    """Of the points seen, as `surrogate.Surrogate`."""

    scaled_ND: Array
    """points times $\\sqrt 5$ over lengthscales"""
    lifted_NF: Array
    slope_NN: Array
    """dk / d(r^2) times -6 / 5"""
    inverse_NN: Array
    level_V1: Array
    weights_VN: Array
    amplitude_V: Array
    noise: float


def view(y_N: Array) -> tuple[Array, Array]:
    """`surrogate.view`: the values in three views, and their order."""
    N, order_N = len(y_N), y_N.argsort(kind="stable")
    sorted_N = y_N[order_N]
    best = sorted_N[0]
    unit = max(sorted_N[N // 2] - best, 1e-9 * (sorted_N[-1] - best)) or 1.0
    excess_N = (y_N - best) / unit
    below_N = sorted_N.searchsorted(y_N) + sorted_N.searchsorted(y_N, "right")
    seen_VN = np.empty((VIEWS, N))
    seen_VN[0] = np.minimum(excess_N, 1.0) + np.log1p(np.maximum(excess_N - 1.0, 0.0))
    seen_VN[1] = np.log(excess_N + NEAREST)
    shares_N = np.minimum(np.maximum(0.5 / N * below_N, 0.25 / N), 1 - 0.25 / N)
    seen_VN[2] = torch.special.ndtri(torch.from_numpy(shares_N)).numpy()
    seen_VN -= np.add.reduce(seen_VN, 1, keepdims=True) / N
    deviation_V = np.sqrt(np.add.reduce(seen_VN * seen_VN, 1) / N)
    deviation_V[deviation_V <= 1e-12] = 1.0
    seen_VN /= deviation_V[:, None]
    return seen_VN, order_N


def fit(scaled_ND: Array, seen_VN: Array, noise: float) -> Fit:
    """`surrogate.fit`."""
    N = len(scaled_ND)
    lifted_NF = lifted(scaled_ND)
    correlation_NN, slope_NN, decay_NN = correlations(squared_distances(scaled_ND, lifted_NF))
    slope_NN *= decay_NN
    inverse_NN = inverse(correlation_NN, noise)
    ones_N = np.add.reduce(inverse_NN, 0)
    raw_VN = seen_VN @ inverse_NN
    level_V1 = np.add.reduce(raw_VN, 1, keepdims=True) / np.add.reduce(ones_N)
    weights_VN = raw_VN - level_V1 * ones_N
    amplitude_V = (np.add.reduce(seen_VN * weights_VN, 1) + 2.0) / (N + 2.0)
    return Fit(scaled_ND, lifted_NF, slope_NN, inverse_NN, level_V1, weights_VN, amplitude_V, noise)


def lifted(b_ND: Array) -> Array:
    """$(b, 1, |b|^2)$, of which `squared_distances` are one product."""
    N, D = b_ND.shape
    lifted_NF = np.empty((N, D + 2))
    lifted_NF[:, :D] = b_ND
    lifted_NF[:, D] = 1.0
    np.einsum("nd,nd->n", b_ND, b_ND, out=lifted_NF[:, D + 1])
    return lifted_NF


def squared_distances(a_CD: Array, lifted_NF: Array) -> Array:
    """At least 1e-20."""
    C, D = a_CD.shape
    left_CF = np.empty((C, D + 2))
    np.multiply(a_CD, -2.0, out=left_CF[:, :D])
    np.einsum("cd,cd->c", a_CD, a_CD, out=left_CF[:, D])
    left_CF[:, D + 1] = 1.0
    squared_CN = product(left_CF, lifted_NF.T)
    return np.maximum(squared_CN, 1e-20, out=squared_CN)


def correlations(squared_CN: Array) -> tuple[Array, Array, Array]:
    """$(1 + s + s^2 / 3) e^{-s}$ of $s^2$, in its place; $1 + s$ and $e^{-s}$."""
    root_CN = np.sqrt(squared_CN)
    decay_CN = np.exp(-root_CN)
    root_CN += 1.0
    squared_CN *= 1.0 / 3.0
    squared_CN += root_CN
    squared_CN *= decay_CN
    return squared_CN, root_CN, decay_CN


def inverse(correlation_NN: Array, noise: float) -> Array:
    """Of correlations with noise on the diagonal, which is added in place."""
    correlation_NN.reshape(-1)[:: len(correlation_NN) + 1] += noise + JITTER
    return torch.cholesky_inverse(torch.linalg.cholesky_ex(torch.from_numpy(correlation_NN)).L).numpy()


def product(a: Array, b: Array) -> Array:
    """Small ones by NumPy; others by PyTorch, whose number of threads a program sets."""
    if a.size * b.shape[1] <= SMALL:
        return a @ b
    return torch.mm(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def evidence_slopes(fitted: Fit) -> tuple[Array, float]:
    """`surrogate.evidence_slopes`."""
    scaled_ND, _, slope_NN, inverse_NN, _, weights_VN, amplitude_V, noise = fitted
    outer_NN = (weights_VN / (VIEWS * amplitude_V)[:, None]).T @ weights_VN
    outer_NN -= inverse_NN
    trace = float(np.add.reduce(outer_NN.diagonal()))
    outer_NN *= slope_NN
    pulled_ND = product(outer_NN, scaled_ND)
    pulled_ND -= np.add.reduce(outer_NN, 1)[:, None] * scaled_ND
    return np.einsum("nd,nd->d", scaled_ND, pulled_ND) * (-1.0 / 3.0), 0.5 * noise * trace


def log_expected_improvement(z_VC: Array, deviation_VC: Array) -> Array:
    """`surrogate.log_expected_improvement`."""
    bounded_VC = np.minimum(z_VC, CERTAIN)
    tail_VC = torch.special.erfcx(torch.from_numpy(bounded_VC * -math.sqrt(0.5))).numpy()
    tail_VC *= bounded_VC
    tail_VC *= math.sqrt(math.pi / 2)
    tail_VC += 1.0
    np.maximum(tail_VC, 1e-30, out=tail_VC)
    tail_VC *= deviation_VC
    tail_VC *= np.maximum(z_VC, CERTAIN)
    return np.log(tail_VC) - (0.5 * bounded_VC * bounded_VC + OFFSET)

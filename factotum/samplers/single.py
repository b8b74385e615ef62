"""What `AcquisitionCore.step` computes, for one function on the CPU and without gradients, in a third of the time.

The same equations in NumPy, whose calls cost less than PyTorch's where arrays are small; large products, special
functions and the networks stay with PyTorch. What it does not know: batches, devices, training.
Local letters as in `factotum.samplers.surrogate`, without B; M points seen or pending.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factotum.samplers.acquisition_state import AcquisitionState
from factotum.samplers.candidates import CENTRES, CLOSER, Snap, closer_recipe, draw, spread_recipe
from factotum.samplers.history import Observation
from factotum.samplers.single_surrogate import (
    Array,
    Fit,
    correlations,
    evidence_slopes,
    fit,
    inverse,
    lifted,
    log_expected_improvement,
    product,
    squared_distances,
    view,
)
from factotum.samplers.surrogate import VIEWS

Layer = tuple[Array, Array]
"""weight, bias"""

CPU = torch.device("cpu")

SHARPNESS = 3.0
"""Of scores."""

PRIOR_LOG_NOISE = -10.0
"""Logarithm of the noise's variance in the amplitude's: where it starts, and what pulls it back."""

KNOWN = 1e-10
"""Squared distance in lengthscales at which a candidate is a point seen."""


class Judge(NamedTuple):
    """What all candidates of a step are judged by."""

    fit: Fit
    known_MF: Array
    """points seen and pending, scaled and lifted as in `Fit`"""
    inverse_MM: Array
    best_V1: Array
    best_x_D: Array
    stretch_D: Array
    """$\\sqrt 5$ over lengthscales"""
    trust_V: Array
    bias_H1: Array
    """of the first layer, with what is shared"""


class Weights(NamedTuple):
    """The core's own, seen as arrays: what an optimizer or `load_state_dict` changes in place changes here too."""

    prior_lengthscale: Array
    trust: Layer
    move: tuple[Layer, Layer]
    own: Layer
    shared: Layer
    hidden: Layer
    output: Layer


def step(core: Any, observation: Observation, state: AcquisitionState) -> tuple[Tensor, AcquisitionState]:
    """`AcquisitionCore.step` after the first value."""
    weights = _weights(core)
    x_D, fitted = propose(core, weights, state, float(observation.remaining_B.numpy()[0]))
    state = _moved(weights, state, fitted) if bool(observation.observed_B[0]) else state
    return torch.from_numpy(x_D[None]).to(observation.x_BD.dtype), state


def propose(core: Any, weights: Weights, state: AcquisitionState, remaining: float) -> tuple[Array, Fit]:
    """The next point of a search that has seen values, and the process it was found by."""
    x_ND, y_N, log_lengthscale_D = state.x_BND.numpy()[0], state.y_BN.numpy()[0], _log_lengthscale(state)
    seen_VN, order_N = view(y_N)
    stretch_D = math.sqrt(5.0) * np.exp(-log_lengthscale_D)
    fitted = fit(x_ND * stretch_D, seen_VN, math.exp(_log_noise(state)))
    shared_F = _shared_features(state, remaining, fitted, seen_VN, order_N)
    best_V1 = np.minimum.reduce(seen_VN - fitted.noise * fitted.weights_VN, 1, keepdims=True)
    judge = _judge(weights, state, fitted, shared_F, best_V1, x_ND[order_N[0]], stretch_D)
    C, D, reach_D = core.config.candidates, x_ND.shape[1], np.exp(np.minimum(log_lengthscale_D, 0.0))
    draws = draw(state.draw_seed, (1, C, D), CPU)
    uniform_CF, normal_CD = draws.uniform_BCD1.numpy()[0], draws.normal_BLD.numpy()[0]
    points_CD = _snapped(_spread(x_ND, order_N, reach_D, uniform_CF[:C], normal_CD[:-CLOSER]), state.snap)
    score_C, top_V1 = score(weights, judge, points_CD, np.full((VIEWS, 1), -np.inf))
    x_D = points_CD[score_C.argmax()]
    points_CD = _around(x_D, reach_D, uniform_CF[C:], normal_CD[-CLOSER:], _closer_recipe(D))
    points_CD = np.concatenate([x_D[None], _snapped(points_CD, state.snap)])
    score_C, _ = score(weights, judge, points_CD, top_V1)
    return points_CD[score_C.argmax()], fitted


def _log_lengthscale(state: AcquisitionState) -> Array:
    return state.log_lengthscale_BD.detach().numpy()[0]


def _log_noise(state: AcquisitionState) -> float:
    return float(state.log_noise_B.detach().numpy()[0])


def _judge(
    weights: Weights,
    state: AcquisitionState,
    fitted: Fit,
    shared_F: Array,
    best_V1: Array,
    best_x_D: Array,
    stretch_D: Array,
) -> Judge:
    trust_V = weights.trust[0] @ shared_F + weights.trust[1]
    trust_V = np.exp(trust_V - trust_V.max())
    trust_V /= np.add.reduce(trust_V)
    bias_H = weights.shared[0] @ shared_F + weights.shared[1] + weights.own[1]
    known_MF, inverse_MM = fitted.lifted_NF, fitted.inverse_NN
    if state.pending_BPD.shape[1]:
        known_MD = np.concatenate([fitted.scaled_ND, state.pending_BPD.numpy()[0] * stretch_D])
        known_MF = lifted(known_MD)
        correlation_MM, _, _ = correlations(squared_distances(known_MD, known_MF))
        inverse_MM = inverse(correlation_MM, fitted.noise)
    return Judge(fitted, known_MF, inverse_MM, best_V1, best_x_D, stretch_D, trust_V, bias_H[:, None])


def _shared_features(
    state: AcquisitionState, remaining: float, fitted: Fit, seen_VN: Array, order_N: Array
) -> Array:
    (_, N, D), y_N = state.x_BND.shape, state.y_BN.numpy()[0]
    weight_N = (y_N <= y_N[order_N[(N - 1) // 2]]).astype(np.float64)
    weight_N /= np.add.reduce(weight_N)
    error_VN = fitted.weights_VN / fitted.inverse_NN.diagonal()
    error_V = (error_VN * error_VN) @ weight_N
    centred_VN = seen_VN - (seen_VN @ weight_N)[:, None]
    spread_V = (centred_VN * centred_VN) @ weight_N
    left, stale = max(remaining, 1.0), N - 1 - int(order_N[0])
    features_F = np.empty(6 + 2 * VIEWS, dtype=np.float32)
    features_F[:6] = (
        math.log(N) / 4, math.log(D) / 3, math.log(left) / 4, left / (left + N), math.log1p(stale) / 4,
        np.add.reduce(_log_lengthscale(state)) / D,
    )  # fmt: skip
    features_F[6 : 6 + VIEWS] = np.log((error_V + 1e-6) / (spread_V + 1e-3)) / 4
    features_F[6 + VIEWS :] = np.log(fitted.amplitude_V) / 2
    return features_F


def score(weights: Weights, judge: Judge, points_CD: Array, top_V1: Array) -> tuple[Array, Array]:
    """Scores of candidates, and the highest log improvement in each view, `top_V1` included."""
    fitted, N = judge.fit, len(judge.fit.scaled_ND)
    squared_CM = squared_distances(points_CD * judge.stretch_D, judge.known_MF)
    nearest_C = np.minimum.reduce(squared_CM, 1)
    cross_CM, _, _ = correlations(squared_CM)
    mean_VC = fitted.weights_VN @ cross_CM[:, :N].T + fitted.level_V1
    solved_CM = product(cross_CM, judge.inverse_MM)
    share_C = np.sqrt(np.maximum(1.0 - np.einsum("cm,cm->c", solved_CM, cross_CM), 1e-10))
    deviation_VC = np.sqrt(fitted.amplitude_V)[:, None] * share_C
    z_VC = (judge.best_V1 - mean_VC) / deviation_VC
    gain_VC = log_expected_improvement(z_VC, deviation_VC)
    top_V1 = np.maximum(top_V1, np.maximum.reduce(gain_VC, 1, keepdims=True))
    gain_VC = np.maximum(gain_VC - top_V1, -12.0)
    away_CD = points_CD - judge.best_x_D
    features_FC = np.empty((3 * VIEWS + 4, len(points_CD)), dtype=np.float32)
    features_FC[:VIEWS] = gain_VC * 0.25
    features_FC[VIEWS : 2 * VIEWS] = np.arcsinh(z_VC)
    features_FC[2 * VIEWS : 3 * VIEWS] = np.tanh(mean_VC)
    features_FC[-4] = share_C
    squares_3C = np.empty((3, len(points_CD)))
    squares_3C[0] = share_C * share_C
    squares_3C[1] = nearest_C * 0.2 + 1e-12
    squares_3C[2] = np.einsum("cd,cd->c", away_CD, away_CD) + 1e-12
    features_FC[-3:] = np.log(squares_3C) * 0.125
    hidden_HC = _gelu(product(weights.own[0], features_FC) + judge.bias_H1)
    hidden_HC = _gelu(product(weights.hidden[0], hidden_HC) + weights.hidden[1][:, None])
    learned_C = (weights.output[0] @ hidden_HC)[0] + weights.output[1]
    score_C = SHARPNESS * (judge.trust_V @ gain_VC + learned_C)
    score_C[nearest_C < 5.0 * KNOWN] -= 1e6
    return score_C, top_V1


def _gelu(x: Array) -> Array:
    return F.gelu(torch.from_numpy(x)).numpy()


def _moved(weights: Weights, state: AcquisitionState, fitted: Fit) -> AcquisitionState:
    """`AcquisitionCore._moved`."""
    N, D = fitted.scaled_ND.shape
    log_lengthscale_D, log_noise = _log_lengthscale(state), _log_noise(state)
    slope_D, slope = evidence_slopes(fitted)
    typical, per_log = weights.prior_lengthscale.tolist()
    away_D = log_lengthscale_D - (typical + per_log * math.log(D))
    total_D, squashed_D = slope_D - away_D / 0.64, np.arcsinh(slope_D)
    features_7D = np.empty((7, D), dtype=np.float32)
    features_7D[0] = np.tanh(total_D)
    features_7D[1] = squashed_D
    features_7D[2] = away_D
    features_7D[3] = np.add.reduce(away_D) / D
    features_7D[4] = np.add.reduce(squashed_D) / D
    features_7D[5] = math.log(N) / 3
    features_7D[6] = math.log(D) / 2
    (first, bias), (second, last) = weights.move
    hidden_HD = _gelu(first @ features_7D + bias[:, None])
    learned_D = np.tanh((second @ hidden_HD)[0] + last)
    log_lengthscale_D = log_lengthscale_D + (0.4 * np.tanh(0.4 * total_D) + 0.3 * learned_D)
    log_lengthscale_D = np.minimum(np.maximum(log_lengthscale_D, -4.0), 4.0)
    log_noise += 0.5 * math.tanh(0.4 * (slope - (log_noise - PRIOR_LOG_NOISE) / 4.0))
    log_noise_B = np.array([min(max(log_noise, -16.0), 0.0)])
    return state._replace(
        log_lengthscale_BD=torch.from_numpy(log_lengthscale_D[None]),
        log_noise_B=torch.from_numpy(log_noise_B),
    )


def _spread(x_ND: Array, order_N: Array, reach_D: Array, uniform_CF: Array, normal_LD: Array) -> Array:
    """`candidates.spread`."""
    C, (L, D) = len(uniform_CF), normal_LD.shape
    recipe = _spread_recipe(C, D, min(len(x_ND), CENTRES))
    centre_LD = x_ND[order_N[recipe[-1]]]
    around_LD = _around(centre_LD, reach_D, uniform_CF[C - L :], normal_LD, recipe)
    return np.concatenate([uniform_CF[: C - L, :-1], around_LD])


def _around(
    centre_LD: Array, reach_D: Array, uniform_LF: Array, normal_LD: Array, recipe: tuple[Array, ...]
) -> Array:
    share_L1, low_L1, range_L1, _ = recipe
    reach_LD = np.exp(low_L1 + range_L1 * uniform_LF[:, -1:]) * reach_D
    reach_LD *= normal_LD
    reach_LD *= uniform_LF[:, :-1] < share_L1
    reach_LD += centre_LD
    return np.minimum(np.maximum(reach_LD, 0.0, out=reach_LD), 1.0, out=reach_LD)


def _snapped(points_CD: Array, snap: Snap | None) -> Array:
    return points_CD if snap is None else snap(torch.from_numpy(points_CD)[None]).numpy()[0]


@cache
def _spread_recipe(count: int, dimensions: int, centres: int) -> tuple[Array, ...]:
    return tuple(part.numpy() for part in spread_recipe(count, dimensions, centres, CPU))


@cache
def _closer_recipe(dimensions: int) -> tuple[Array, ...]:
    return tuple(part.numpy() for part in closer_recipe(dimensions, CPU))


def _weights(core: Any) -> Weights:
    """Kept on the core for as long as its parameters stay where they are."""
    kept: tuple[int, Weights] | None = core.kept
    address = core.output.weight.data_ptr()
    if kept is None or kept[0] != address:
        kept = core.kept = (address, _seen_as_arrays(core))
    return kept[1]


def _seen_as_arrays(core: Any) -> Weights:
    def layer(linear: nn.Module) -> Layer:
        assert isinstance(linear, nn.Linear)
        return linear.weight.detach().numpy(), linear.bias.detach().numpy()

    return Weights(
        core.prior_lengthscale.detach().numpy(),
        layer(core.trust),
        (layer(core.move[0]), layer(core.move[2])),
        *(layer(part) for part in (core.own, core.shared, core.hidden, core.output)),
    )

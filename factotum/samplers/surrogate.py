"""What do the values seen say about the values elsewhere? A Gaussian process in three views of the values.

The lengthscales are not fitted anew: they are carried from step to step, and each new value gives the slope of the
evidence by which a core may move them. What it does not know: networks, candidates, what is proposed.
Local letters: B functions, V views, N points seen, C candidates, D dimensions. All in double precision.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

VIEWS = 3
"""Near-linear, logarithmic, ranks."""

NEAREST = 0.02
"""Distance from the best value, in units of the median's, below which the logarithmic view is nearly linear."""

JITTER = 1e-8

CERTAIN = 20.0
"""Deviations by which an improvement is expected that is certain."""

OFFSET = 0.5 * math.log(2 * math.pi) + math.log(CERTAIN)


class Views(NamedTuple):
    """Values as a Gaussian process can take them; none changes when y becomes a y + b, a > 0."""

    seen_BVN: Float[Tensor, "B V N"]
    """standardised over the values seen"""
    best_B1: Float[Tensor, "B 1"]
    unit_B1: Float[Tensor, "B 1"]
    mean_BV1: Float[Tensor, "B V 1"]
    deviation_BV1: Float[Tensor, "B V 1"]
    order_BN: Int[Tensor, "B N"]
    """where the values are, the best first; of equal ones the first"""

    def of(self, y_BC: Float[Tensor, "B C"]) -> Float[Tensor, "B W C"]:
        """Other values in the views that are functions of the value alone, all but the ranks."""
        pair_BWC = _warped((y_BC - self.best_B1) / self.unit_B1)
        return (pair_BWC - self.mean_BV1[:, :-1]) / self.deviation_BV1[:, :-1]


def view(y_BN: Float[Tensor, "B N"]) -> Views:
    r"""The values seen in three views.

    With $e = (y - m) / u$, m the least and $m + u$ the median value: $\min(e, 1) + \log(1 + \max(e - 1, 0))$;
    $\log(e + 0.02)$; and the normal quantile of the rank.

    >>> view(torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.float64)).seen_BVN[0, 0].round(decimals=2).tolist()
    [1.14, -1.29, 0.15]
    """
    N = y_BN.shape[1]
    sorted_BN, order_BN = y_BN.sort(dim=1, stable=True)
    best_B1 = sorted_BN[:, :1]
    unit_B1 = torch.maximum(sorted_BN[:, N // 2, None] - best_B1, 1e-9 * (sorted_BN[:, -1:] - best_B1))
    unit_B1 = torch.where(unit_B1 > 0, unit_B1, 1.0)
    below_BN = torch.searchsorted(sorted_BN, y_BN) + torch.searchsorted(sorted_BN, y_BN, right=True)
    ranks_BN = torch.special.ndtri((0.5 / N * below_BN.to(y_BN)).clamp(0.25 / N, 1 - 0.25 / N))
    raw_BVN = torch.cat([_warped((y_BN - best_B1) / unit_B1), ranks_BN[:, None]], 1)
    mean_BV1 = raw_BVN.mean(2, keepdim=True)
    centred_BVN = raw_BVN - mean_BV1
    deviation_BV1 = centred_BVN.square().mean(2, keepdim=True).sqrt()
    deviation_BV1 = torch.where(deviation_BV1 > 1e-12, deviation_BV1, 1.0)
    return Views(centred_BVN / deviation_BV1, best_B1, unit_B1, mean_BV1, deviation_BV1, order_BN)


def _warped(excess_BN: Tensor) -> Tensor:
    linear_BN = excess_BN.clamp(max=1.0) + (excess_BN - 1.0).clamp(min=0.0).log1p()
    return torch.stack([linear_BN, (excess_BN.clamp(min=-0.9 * NEAREST) + NEAREST).log()], 1)


class Surrogate(NamedTuple):
    """A posterior that shares its kernel between the views; level and amplitude of each view are the likeliest."""

    scaled_BND: Float[Tensor, "B N D"]
    """points over lengthscales"""
    slope_BNN: Float[Tensor, "B N N"]
    """dk / d(r^2) between them"""
    inverse_BNN: Float[Tensor, "B N N"]
    level_BV: Float[Tensor, "B V"]
    weights_BVN: Float[Tensor, "B V N"]
    amplitude_BV: Float[Tensor, "B V"]
    """variance of each view"""
    noise_B: Float[Tensor, " B"]
    """variance of the noise over that of the process"""


class Posterior(NamedTuple):
    """At C points."""

    mean_BVC: Float[Tensor, "B V C"]
    share_BC: Float[Tensor, "B C"]
    """standard deviation over the process's own: 0 where the value is known, 1 far away"""
    nearest_BC: Float[Tensor, "B C"]
    """squared distance to the nearest point, in lengthscales"""


def kernel(squared: Float[Tensor, "B N M"]) -> tuple[Float[Tensor, "B N M"], Float[Tensor, "B N M"]]:
    r"""Matern-5/2 $(1 + s + s^2 / 3) e^{-s}$, $s = \sqrt{5 r^2}$, of squared distances, and its slope in $r^2$.

    >>> kernel(torch.zeros(1, 1, 1, dtype=torch.float64))[0].item()
    1.0
    """
    s2 = 5.0 * squared
    s = (s2 + 1e-20).sqrt()
    decay = (-s).exp()
    return (1.0 + s + s2 / 3.0) * decay, (1.0 + s) * decay * (-5.0 / 6.0)


def distances(a_BND: Float[Tensor, "B N D"], b_BMD: Float[Tensor, "B M D"]) -> Float[Tensor, "B N M"]:
    """Squared distances."""
    squares = a_BND.square().sum(-1)[:, :, None] + b_BMD.square().sum(-1)[:, None, :]
    return torch.baddbmm(squares, a_BND, b_BMD.transpose(1, 2), alpha=-2.0).clamp(min=0.0)


def inverse_covariance(
    scaled_BND: Float[Tensor, "B N D"], noise_B: Float[Tensor, " B"]
) -> tuple[Float[Tensor, "B N N"], Float[Tensor, "B N N"]]:
    """Inverse of the correlations with noise on the diagonal, and the kernel's slopes."""
    correlation_BNN, slope_BNN = kernel(distances(scaled_BND, scaled_BND))
    correlation_BNN.diagonal(dim1=1, dim2=2).add_((noise_B + JITTER)[:, None])
    factor_BNN = torch.linalg.cholesky_ex(correlation_BNN).L
    return torch.cholesky_inverse(factor_BNN), slope_BNN


def fit(
    x_BND: Float[Tensor, "B N D"],
    seen_BVN: Float[Tensor, "B V N"],
    log_lengthscale_BD: Float[Tensor, "B D"],
    log_noise_B: Float[Tensor, " B"],
) -> Surrogate:
    r"""Posterior at given lengthscales and noise; $\beta_v$ and $\sigma_v^2$ are closed forms.

    $\beta = 1^\top K^{-1} v / 1^\top K^{-1} 1$, $\sigma^2 = (r^\top K^{-1} r + 2) / (N + 2)$ with $r = v - \beta$.
    """
    scaled_BND = x_BND / log_lengthscale_BD.exp()[:, None]
    noise_B = log_noise_B.exp()
    inverse_BNN, slope_BNN = inverse_covariance(scaled_BND, noise_B)
    ones_B1N = inverse_BNN.sum(1, keepdim=True)
    raw_BVN = seen_BVN @ inverse_BNN
    level_BV1 = raw_BVN.sum(-1, keepdim=True) / ones_B1N.sum(-1, keepdim=True)
    weights_BVN = torch.addcmul(raw_BVN, level_BV1, ones_B1N, value=-1.0)
    # with the weights of the residuals, which sum to 0
    amplitude_BV = ((seen_BVN * weights_BVN).sum(-1) + 2.0) / (x_BND.shape[1] + 2.0)
    level_BV = level_BV1[..., 0]
    return Surrogate(scaled_BND, slope_BNN, inverse_BNN, level_BV, weights_BVN, amplitude_BV, noise_B)


def evidence_slopes(surrogate: Surrogate) -> tuple[Float[Tensor, "B D"], Float[Tensor, " B"]]:
    r"""Slopes of the log evidence, mean over views, in the logarithms of lengthscales and noise.

    $\frac12 \mathrm{tr}\big((\alpha\alpha^\top / \sigma^2 - K^{-1})\, \partial K / \partial \log \theta\big)$
    """
    scaled_BND, slope_BNN, inverse_BNN, _, weights_BVN, amplitude_BV, noise_B = surrogate
    outer_BNN = (weights_BVN / amplitude_BV[..., None]).transpose(1, 2) @ weights_BVN
    excess_BNN = outer_BNN / weights_BVN.shape[1] - inverse_BNN
    pull_BNN = excess_BNN * slope_BNN
    through_BND = pull_BNN @ scaled_BND - pull_BNN.sum(-1)[..., None] * scaled_BND
    return (
        2.0 * (scaled_BND * through_BND).sum(1),
        0.5 * noise_B * excess_BNN.diagonal(dim1=1, dim2=2).sum(1),
    )


def leave_one_out(surrogate: Surrogate) -> Float[Tensor, "B V N"]:
    """Error of each value's prediction from the others."""
    return surrogate.weights_BVN / surrogate.inverse_BNN.diagonal(dim1=1, dim2=2)[:, None]


def predict(
    surrogate: Surrogate,
    scaled_BCD: Float[Tensor, "B C D"],
    pending_BPD: Float[Tensor, "B P D"] | None = None,
) -> Posterior:
    """Means and standard deviations at points over lengthscales.

    Pending points make their surroundings known without changing the means, as if their own means came true.
    """
    known_BND, inverse_BNN = surrogate.scaled_BND, surrogate.inverse_BNN
    N = known_BND.shape[1]
    if pending_BPD is not None:
        known_BND = torch.cat([known_BND, pending_BPD], 1)
        inverse_BNN, _ = inverse_covariance(known_BND, surrogate.noise_B)
    squared_BCN = distances(scaled_BCD, known_BND)
    cross_BCN, _ = kernel(squared_BCN)
    mean_BVC = surrogate.weights_BVN @ cross_BCN[:, :, :N].transpose(1, 2) + surrogate.level_BV[..., None]
    known_BC = ((cross_BCN @ inverse_BNN) * cross_BCN).sum(-1)
    return Posterior(mean_BVC, (1.0 - known_BC).clamp(min=1e-10).sqrt(), squared_BCN.amin(-1))


def log_expected_improvement(
    best: Float[Tensor, "*#S"], mean: Float[Tensor, "*#S"], deviation: Float[Tensor, "*#S"]
) -> tuple[Float[Tensor, "*S"], Float[Tensor, "*S"]]:
    r"""$\log \sigma + \log(\phi(z) + z \Phi(z))$, $z = (m - \mu) / \sigma$, without underflow; and z.

    $\phi(z) + z \Phi(z) = \phi(z) \big(1 + z \sqrt{\pi / 2}\, \mathrm{erfcx}(-z / \sqrt 2)\big)$.

    >>> log_expected_improvement(*torch.tensor([[0.0], [0.0], [1.0]]))[0].exp()  # 1 / sqrt(2 pi)
    tensor([0.3989])

    Reference: Ament et al. 2023 (arXiv 2310.20708).
    """
    z = (best - mean) / deviation
    # phi(z) + z Phi(z) = phi(z) tail(z); beyond `CERTAIN`, where this is z but for rounding, continued as that
    bounded = z.clamp(max=CERTAIN)
    tail = (1.0 + bounded * math.sqrt(math.pi / 2) * torch.special.erfcx(bounded * -math.sqrt(0.5))).clamp(
        min=1e-30
    )
    scale = deviation * tail * z.clamp(min=CERTAIN)
    return torch.addcmul(scale.log() - OFFSET, bounded, bounded, value=-0.5), z

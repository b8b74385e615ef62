r"""What the parameter RNN sees of a gradient: averages over several times, scaled, compared, nothing in raw units.

Letters: P scalars, S time scales, F features. The order of the features is part of the format of weights:
$m_0, \dots, m_{S-1}$; products $m_s m_{s+1}$ where the configuration has them; $\gamma_0, \dots, \gamma_{S-1}$;
$\eta_{rel}$.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.optim.config import HierarchicalRNNConfig, Squash

LARGEST = 1e18
"""Gradients are clipped to this, so that their squares are finite in single precision."""

FLOOR = 1e-12
"""Added to squared averages, so that a gradient of 0 has a finite logarithm."""


def feature_names(config: HierarchicalRNNConfig) -> tuple[str, ...]:
    """Names of the F features, in order.

    >>> feature_names(HierarchicalRNNConfig(scales=2))
    ('scaled_0', 'scaled_1', 'product_0', 'magnitude_0', 'magnitude_1', 'relative_rate')
    """
    scales = range(config.scales)
    products = [f"product_{s}" for s in scales[:-1]] if config.gradient_products else []
    return (
        *(f"scaled_{s}" for s in scales), *products, *(f"magnitude_{s}" for s in scales), "relative_rate",
    )  # fmt: skip


def decays(decay_P: Float[Tensor, " P"], scales: int) -> Float[Tensor, "P S"]:
    r"""$b^{2^{-s}}$: every average reaches back twice as far as the one before.

    >>> decays(torch.tensor([0.0, 0.0625]), 3).tolist()
    [[0.0, 0.0, 0.0], [0.0625, 0.25, 0.5]]
    """
    columns = [decay_P]
    for _ in range(scales - 1):
        columns.append(columns[-1].sqrt())
    return torch.stack(columns, 1)


def average(
    gradient_P: Float[Tensor, " P"],
    gradient_PS: Float[Tensor, "P S"],
    square_PS: Float[Tensor, "P S"],
    gradient_decay_P: Float[Tensor, " P"],
    square_decay_P: Float[Tensor, " P"],
) -> tuple[Float[Tensor, "P S"], Float[Tensor, "P S"]]:
    r"""Running averages of the gradient, and of the squares of these averages.

    $\bar g_s \leftarrow b_s \bar g_s + (1 - b_s) g$ with $b_s = b_g^{2^{-s}}$;
    $\lambda_s \leftarrow b_\lambda \lambda_s + (1 - b_\lambda)(\bar g_s^2 + 10^{-12})$.

    Args:
        gradient_P: g, clipped to 1e18.
        gradient_PS: the averages before.
        square_PS: their squares before.
        gradient_decay_P: b_g, 0 in the first step.
        square_decay_P: b_lambda, 0 in the first step.

    Returns:
        Both after.

    >>> zeros = torch.zeros(1, 4)
    >>> average(torch.tensor([3.0]), zeros, zeros, torch.zeros(1), torch.zeros(1))
    (tensor([[3., 3., 3., 3.]]), tensor([[9., 9., 9., 9.]]))

    Wichrowska et al., 2017 (arXiv 1703.04813), section 3.2, equation 1.
    """
    gradient_P1 = gradient_P.clamp(-LARGEST, LARGEST)[:, None]
    decay_PS = decays(gradient_decay_P, gradient_PS.shape[1])
    gradient_PS = torch.lerp(gradient_P1, gradient_PS, decay_PS)
    square_PS = torch.lerp(gradient_PS.square() + FLOOR, square_PS, square_decay_P[:, None])
    return gradient_PS, square_PS


class Asinh(torch.autograd.Function):
    r"""$\mathrm{sign}(x) \log(1 + |x| + x^2 / (1 + \sqrt{1 + x^2}))$, exact for small and large x of either sign.

    `torch.asinh` is as exact, but four times as slow on a CPU, where it was a seventh of a step.

    >>> Asinh.apply(torch.tensor([-1e20, -1e-20, 0.0, 1.0]))
    tensor([-4.2140e+01, -1.0000e-20,  0.0000e+00,  8.8137e-01])
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """The values; above 1e18 all the same, as squares must stay finite."""
        size = x.abs().clamp_(max=LARGEST)
        root = torch.addcmul(torch.ones_like(size), size, size).sqrt_()
        size.addcdiv_(size * size, root.add_(1.0))
        return size.log1p_().copysign_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep x."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        r"""$1 / \sqrt{1 + x^2}$, differentiable once more."""
        (x,) = ctx.saved_tensors
        return slope * (x.square() + 1.0).rsqrt()


def scaled(
    gradient_PS: Float[Tensor, "P S"], square_PS: Float[Tensor, "P S"], squash: Squash
) -> Float[Tensor, "P S"]:
    r"""$m_s = \mathrm{asinh}(\bar g_s / \sqrt{\lambda_s + 10^{-16}})$, or the plain ratio."""
    ratio_PS = gradient_PS * (square_PS + 1e-16).rsqrt()
    return Asinh.apply(ratio_PS) if squash == "asinh" else ratio_PS


def features(
    gradient_PS: Float[Tensor, "P S"],
    square_PS: Float[Tensor, "P S"],
    relative_rate_P: Float[Tensor, " P"],
    config: HierarchicalRNNConfig,
) -> Float[Tensor, "P F"]:
    r"""Inputs of the parameter RNN: $m_s$, $m_s m_{s+1}$, $\gamma_s$, $\eta_{rel}$.

    $\gamma_s = \log(\lambda_s + 10^{-16}) - \frac1S \sum_{s'} \log(\lambda_{s'} + 10^{-16})$.

    Args:
        gradient_PS: averages of the gradient.
        square_PS: of their squares.
        relative_rate_P: log learning rate minus its mean.
        config: which features there are.

    >>> x = features(torch.ones(1, 4), torch.ones(1, 4), torch.zeros(1), HierarchicalRNNConfig())
    >>> [round(value, 3) for value in x[0].tolist()]
    [0.881, 0.881, 0.881, 0.881, 0.777, 0.777, 0.777, 0.0, 0.0, 0.0, 0.0, 0.0]

    Wichrowska et al., 2017 (arXiv 1703.04813), section 3.2; products and asinh are of its released code.
    """
    scaled_PS = scaled(gradient_PS, square_PS, config.squash)
    log_PS = (square_PS + 1e-16).log()
    parts = [scaled_PS, log_PS - log_PS.mean(1, keepdim=True), relative_rate_P[:, None]]
    if config.gradient_products:
        parts.insert(1, scaled_PS[:, :-1] * scaled_PS[:, 1:])
    return torch.cat(parts, 1)

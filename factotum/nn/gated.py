"""A gated recurrent cell whose biases can be told from outside, so that one RNN steers another.

What it does not know: what steers it, and what its inputs mean.
Letters: B batch, F features, D width; 3D: reset, update and candidate behind each other.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class BiasedGRUCell(nn.Module):
    r"""A GRU cell (Cho et al. 2014) to whose three pre-activations biases are added.

    $r, u = \sigma(W x + U h + b)$; $c = \tanh(W_c x + U_c (r \circ h) + b_c)$; $h' = u \circ h + (1 - u) \circ c$.
    `torch.nn.GRUCell` applies r after the product, $r \circ (U_c h + b)$, and can therefore not compute this.

    Args:
        features: F, of the inputs.
        width: D, of the state.
        scale: of the weights at the start, $N(0, \mathrm{scale}^2 / (F + D))$.
        gate_bias: of both gates at the start; that of the candidate is 0.

    >>> cell = BiasedGRUCell(features=3, width=5)
    >>> cell(torch.zeros(2, 3), torch.zeros(2, 5), cell.bias).shape
    torch.Size([2, 5])

    Wichrowska et al., 2017 (arXiv 1703.04813), section 3.1, and its released code.
    """

    def __init__(self, features: int, width: int, *, scale: float = 0.5, gate_bias: float = 2.2) -> None:
        super().__init__()
        self.width = width
        deviation = scale / (features + width) ** 0.5
        self.input = nn.Parameter(torch.randn(3 * width, features) * deviation)
        self.gates = nn.Parameter(torch.randn(2 * width, width) * deviation)
        self.candidate = nn.Parameter(torch.randn(width, width) * deviation)
        self.bias = nn.Parameter(torch.cat([torch.full((2 * width,), gate_bias), torch.zeros(width)]))

    def forward(
        self, x_BF: Float[Tensor, "B F"], h_BD: Float[Tensor, "B D"], bias: Float[Tensor, "... E"]
    ) -> Float[Tensor, "B D"]:
        """The next state.

        Args:
            x_BF: inputs.
            h_BD: the state.
            bias: the whole bias, its own included, (3D,) or (B, 3D).
        """
        width = self.width
        before = torch.addmm(bias, x_BF, self.input.T)
        gates = (before[:, : 2 * width] + h_BD @ self.gates.T).sigmoid()
        reset, update = gates[:, :width], gates[:, width:]
        candidate = torch.addmm(before[:, 2 * width :], reset * h_BD, self.candidate.T).tanh()
        return torch.lerp(candidate, h_BD, update)

"""Scatter: what was attended to enters the residual stream of a steered component (arXiv 2401.08525).

At initialisation the update is zero, so that the composite equals its components.
What it does not know: attention, other components.

Letters: B batch, T elements, D width of the component, C common width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from factotum.gats.config import GATSConfig


class Scatter(nn.Module):
    r"""$x' = x + W_m y$, or $x + \tanh(g)\, W_m y$ ("gated"), or $x + |x| W_m y$ ("scaled").

    $|x|$ is the root mean square of x, without gradient. $W_m$ starts at zero, or g where there is one.

    >>> scatter = Scatter(width=8, config=GATSConfig(width=16))
    >>> x = torch.randn(1, 3, 8)
    >>> torch.equal(scatter(x, torch.randn(1, 3, 16)), x)
    True

    Differs from the paper: the form of its update is not known; "gated" is Flamingo's (arXiv 2204.14198).
    """

    def __init__(self, width: int, config: GATSConfig) -> None:
        super().__init__()
        self.update = config.update
        self.up = nn.Linear(config.width, width, bias=False)
        if config.update == "gated":
            self.gate = nn.Parameter(torch.zeros(()))
        else:
            nn.init.zeros_(self.up.weight)

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        y_BTC: Float[Tensor, "B T C"],
        present_BT: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Activations that the component goes on with, in its own precision; absent elements stay."""
        update_BTD = self.up(y_BTC)
        if self.update == "gated":
            update_BTD = self.gate.tanh() * update_BTD
        elif self.update == "scaled":
            update_BTD = x_BTD.detach().float().square().mean(-1, keepdim=True).sqrt() * update_BTD
        if present_BT is not None:
            update_BTD = update_BTD.masked_fill(~present_BT[..., None], 0.0)
        return x_BTD + update_BTD.to(x_BTD.dtype)

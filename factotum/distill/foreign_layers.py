"""Small layers around a foreign network: what its library does to observations before and to outputs after."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Observations of any type as scaled single-precision numbers."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """x times the scale."""
        return x.float() * self.scale


class WithDeviations(nn.Module):
    """Means of actions, then logarithms of deviations that do not depend on the observation.

    >>> WithDeviations(torch.zeros(1))(torch.ones(2, 1)).tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """

    log_deviation_A: Tensor

    def __init__(self, log_deviation_A: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_deviation_A", log_deviation_A)

    def forward(self, mean_BA: Tensor) -> Tensor:
        """Both side by side."""
        return torch.cat([mean_BA, self.log_deviation_A.expand_as(mean_BA)], 1)


class Unscale(nn.Module):
    """From [-1, 1] to the bounds of the actions.

    >>> Unscale(torch.tensor([-2.0]), torch.tensor([4.0]))(torch.zeros(1, 1)).item()
    1.0
    """

    low_A: Tensor
    high_A: Tensor

    def __init__(self, low_A: Tensor, high_A: Tensor) -> None:
        super().__init__()
        self.register_buffer("low_A", low_A)
        self.register_buffer("high_A", high_A)

    def forward(self, action_BA: Tensor) -> Tensor:
        """Actions within their bounds."""
        return self.low_A + 0.5 * (action_BA + 1) * (self.high_A - self.low_A)


def mean_of_quantiles(head: nn.Linear, actions: int) -> nn.Linear:
    """The layer that puts out the mean of the quantiles that `head` puts out, quantiles first.

    >>> mean_of_quantiles(nn.Linear(3, 10), 2).weight.shape
    torch.Size([2, 3])
    """
    mean = nn.Linear(head.in_features, actions)
    weight = head.weight.detach().view(-1, actions, head.in_features).mean(0)
    mean.load_state_dict({"weight": weight, "bias": head.bias.detach().view(-1, actions).mean(0)})
    return mean

r"""How far may step lengths have fallen by now? A floor under the learned rates: stalling is what the rule does worst.

Under the noise of minibatches the learned rule takes a gradient that changes its sign for the end of the way, and its
step lengths fall exponentially where $1/t$ is due. The floor needs no loss: it falls as $1/t$, and as fast as
the gradient itself does, so that exact problems still converge as fast as they can.

Letters: N tensors.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.optim.bounds import LOG_STEP_LIMIT
from factotum.optim.config import HierarchicalRNNConfig

MEMORY = 15 / 16
"""Decay of the average of the gradient's size."""

TINY = 1e-36
"""Added to sizes, so that a gradient of 0 has a finite logarithm."""


def first_pace(count: int, like: Tensor) -> Float[Tensor, "N 4"]:
    """Before the first step: greatest mean log rate, average size of the gradient, its greatest, number of steps.

    >>> first_pace(1, torch.zeros(())).tolist()
    [[-33.0, 0.0, 0.0, 0.0]]
    """
    pace_N4 = like.new_zeros(count, 4)
    pace_N4[:, 0] = -LOG_STEP_LIMIT
    return pace_N4


@torch.no_grad()
def next_pace(
    pace_N4: Float[Tensor, "N 4"], log_rate_N: Float[Tensor, " N"], size_N: Float[Tensor, " N"]
) -> Float[Tensor, "N 4"]:
    """After a step.

    Args:
        pace_N4: before.
        log_rate_N: means of the averaged log learning rates.
        size_N: means of the gradient's magnitudes.

    >>> pace = next_pace(first_pace(1, torch.zeros(())), torch.tensor([-5.0]), torch.tensor([2.0]))
    >>> pace.tolist()
    [[-5.0, 2.0, 2.0, 1.0]]
    """
    greatest_N, average_N, greatest_size_N, steps_N = pace_N4.unbind(1)
    steps_N = steps_N + 1
    # the weight makes it the mean of what was seen, not one that begins at 0
    average_N = torch.lerp(average_N, size_N.to(average_N), (1 - MEMORY) / (1 - MEMORY**steps_N))
    rate_N = log_rate_N.to(greatest_N)
    return torch.stack(
        [greatest_N.maximum(rate_N), average_N, greatest_size_N.maximum(average_N), steps_N], 1
    )


@torch.no_grad()
def floor(pace_N4: Float[Tensor, "N 4"], config: HierarchicalRNNConfig) -> Float[Tensor, " N"]:
    r"""The least averaged log learning rate that a tensor's scalars may have after the next step.

    $$\max_{s<t} \mathrm{mean}\,\bar\eta_s - \log(1 + t/\tau) + \log(a_t / \max_{s \le t} a_s)$$
    with $\tau$ the configuration's `floor_steps`, $a$ the running average of the tensor's mean $|g|$; none
    ($-\infty$) where $\tau$ is 0.

    >>> from factotum.optim.config import shipped_config
    >>> floor(torch.tensor([[-5.0, 1.0, 2.0, 100.0]]), shipped_config())
    tensor([-5.9808])

    Differs from the paper: it has none, and stalls on long runs.
    """
    greatest_N, average_N, greatest_size_N, steps_N = pace_N4.unbind(1)
    if not config.floor_steps:
        return torch.full_like(greatest_N, -torch.inf)
    fallen_N = (average_N + TINY).log() - (greatest_size_N + TINY).log()
    return greatest_N - (steps_N / config.floor_steps).log1p() + fallen_N

r"""How far may step lengths have fallen by now? A floor under the learned rates: stalling is what the rule does worst.

Under the noise of minibatches the learned rule takes a gradient that changes its sign for the end of the way, and its
step lengths fall exponentially where $1/t$ is due. The floor needs no loss: it falls as $1/t$, and as fast as
the gradient itself does, so that exact problems still converge as fast as they can. Where the gradient grows again
the floor follows slowly: raised at once by a rare large gradient it would throw a fitted network off.

Letters: N tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.optim.bounds import LOG_STEP_LIMIT
from factotum.optim.config import HierarchicalRNNConfig

MEMORY = 15 / 16
"""Decay of the average of the gradient's size."""

RISE = 1 / 128
"""Most by which a growing gradient may raise the floor in a step."""

TINY = 1e-36
"""Added to sizes, so that a gradient of 0 has a finite logarithm."""


class Pace(NamedTuple):
    """A row of five tells these of a tensor, in this order."""

    rate_N: Float[Tensor, " N"]
    """greatest mean of the averaged log learning rates so far"""
    size_N: Float[Tensor, " N"]
    """running average of the mean size of the gradient"""
    greatest_N: Float[Tensor, " N"]
    """the greatest of these averages"""
    fallen_N: Float[Tensor, " N"]
    """log of the average over the greatest, 0 or less; rises slowly"""
    steps_N: Float[Tensor, " N"]


def first_pace(count: int, like: Tensor) -> Float[Tensor, "N 5"]:
    """Before the first step; one row a tensor.

    >>> first_pace(1, torch.zeros(())).tolist()
    [[-33.0, 0.0, 0.0, 0.0, 0.0]]
    """
    pace_N5 = like.new_zeros(count, len(Pace._fields))
    pace_N5[:, 0] = -LOG_STEP_LIMIT
    return pace_N5


@torch.no_grad()
def next_pace(
    pace_N5: Float[Tensor, "N 5"], log_rate_N: Float[Tensor, " N"], size_N: Float[Tensor, " N"]
) -> Float[Tensor, "N 5"]:
    """After a step.

    Args:
        pace_N5: before.
        log_rate_N: means of the averaged log learning rates.
        size_N: means of the gradient's magnitudes.

    >>> pace = next_pace(first_pace(1, torch.zeros(())), torch.tensor([-5.0]), torch.tensor([2.0]))
    >>> pace.tolist()
    [[-5.0, 2.0, 2.0, 0.0, 1.0]]
    """
    old = Pace(*pace_N5.unbind(1))
    steps_N = old.steps_N + 1
    # the weight makes it the mean of what was seen, not one that begins at 0
    mean_N = torch.lerp(old.size_N, size_N.to(old.size_N), (1 - MEMORY) / (1 - MEMORY**steps_N))
    greatest_N = old.greatest_N.maximum(mean_N)
    fallen_N = (mean_N + TINY).log() - (greatest_N + TINY).log()
    rate_N = old.rate_N.maximum(log_rate_N.to(old.rate_N))
    new = Pace(rate_N, mean_N, greatest_N, fallen_N.minimum(old.fallen_N + RISE), steps_N)
    return torch.stack(new, 1)


@torch.no_grad()
def floor(pace_N5: Float[Tensor, "N 5"], config: HierarchicalRNNConfig) -> Float[Tensor, " N"]:
    r"""The least averaged log learning rate that a tensor's scalars may have after the next step.

    $$\max_{s<t} \mathrm{mean}\,\bar\eta_s - \log(1 + t/\tau) + \log(a_t / \max_{s \le t} a_s)$$
    with $\tau$ the configuration's `floor_steps`, $a$ the running average of the tensor's mean $|g|$, and the last
    term rising by at most `RISE` a step; none ($-\infty$) where $\tau$ is 0.

    >>> from factotum.optim.config import shipped_config
    >>> floor(torch.tensor([[-5.0, 1.0, 2.0, -0.7, 100.0]]), shipped_config())
    tensor([-5.9877])

    Differs from the paper: it has none, and stalls on long runs.
    """
    pace = Pace(*pace_N5.unbind(1))
    if not config.floor_steps:
        return torch.full_like(pace.rate_N, -torch.inf)
    return pace.rate_N - (pace.steps_N / config.floor_steps).log1p() + pace.fallen_N

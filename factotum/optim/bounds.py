"""Bounds within which the learned rule stays, so that no value of its weights leads to numbers that are none."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

LOG_STEP_LIMIT = 33.0
"""Log step lengths are clipped to this on both sides."""

LEAST_DECAY, GREATEST_DECAY = 1e-30, 1 - 2**-20
"""Of the learned decays: above 0 a root has a derivative; below 1 an average forgets what is 1e7 steps old."""


def straight_through_clip(x: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
    """Clip to +-33; gradients pass as if nothing was clipped.

    >>> import torch
    >>> x = torch.tensor([1.0, 50.0], requires_grad=True)
    >>> y = straight_through_clip(x)
    >>> y.tolist(), torch.autograd.grad(y.sum(), x)[0].tolist()
    ([1.0, 33.0], [1.0, 1.0])
    """
    return x + (x.clamp(-LOG_STEP_LIMIT, LOG_STEP_LIMIT) - x).detach()


def straight_through_floor(x: Float[Tensor, " ..."], least: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
    """At least `least`; gradients pass as if x was.

    >>> import torch
    >>> x = torch.tensor([1.0, -5.0], requires_grad=True)
    >>> y = straight_through_floor(x, torch.tensor([-torch.inf, -2.0]))
    >>> y.tolist(), torch.autograd.grad(y.sum(), x)[0].tolist()
    ([1.0, -2.0], [1.0, 1.0])
    """
    return x + (x.maximum(least) - x).detach()


def decay(logit: Float[Tensor, " ..."]) -> Float[Tensor, " ..."]:
    """The sigmoid, kept away from 0 and 1.

    >>> import torch
    >>> decay(torch.tensor([-1e9, 0.0, 1e9]))
    tensor([1.0000e-30, 5.0000e-01, 1.0000e+00])
    """
    return logit.sigmoid().clamp(LEAST_DECAY, GREATEST_DECAY)

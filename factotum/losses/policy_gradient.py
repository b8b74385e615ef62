"""Policy gradients with a bounded step. Letters: B batch, A actions."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def clipped_surrogate(
    log_policy_B: Float[Tensor, " B"],
    old_log_policy_B: Float[Tensor, " B"],
    advantage_B: Float[Tensor, " B"],
    clip: float = 0.2,
) -> Float[Tensor, " B"]:
    r"""$-\min(\rho A, \mathrm{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A)$ with $\rho = \pi(a) / \pi_{old}(a)$.

    Args:
        log_policy_B: $\log \pi(a)$ of the action that was taken.
        old_log_policy_B: the same when it was taken.
        advantage_B: A, how much better the action was than expected.
        clip: $\epsilon$.

    >>> old, advantage = torch.zeros(2), torch.tensor([1.0, -1.0])
    >>> clipped_surrogate(torch.tensor([0.0, 0.0]), old, advantage).tolist()
    [-1.0, 1.0]
    >>> round(clipped_surrogate(torch.tensor([3.0]), old[:1], advantage[:1]).item(), 4)
    -1.2

    Schulman et al., 2017 (arXiv 1707.06347), equation 7.
    """
    ratio_B = (log_policy_B - old_log_policy_B).exp()
    return -torch.minimum(ratio_B * advantage_B, ratio_B.clamp(1 - clip, 1 + clip) * advantage_B)


def entropy(logits_BA: Float[Tensor, "B A"]) -> Float[Tensor, " B"]:
    """Entropy of the softmax, in nats.

    >>> round(entropy(torch.zeros(1, 2)).item(), 4)
    0.6931
    """
    log_BA = logits_BA.log_softmax(1)
    return -(log_BA.exp() * log_BA).sum(1)

"""Targets and errors of Q-learning: one step, and lambda returns over a piece of play. Letters: A actions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def lambda_returns(
    reward_TB: Float[Tensor, "T B"],
    discount_TB: Float[Tensor, "T B"],
    next_value_TB: Float[Tensor, "T B"],
    lam: float,
    last_TB: Bool[Tensor, "T B"] | None = None,
) -> Float[Tensor, "T B"]:
    r"""$G_t = r_t + \gamma_t ((1 - \lambda) v_{t+1} + \lambda G_{t+1})$, with $v = \max_a Q$ at what came next.

    Where the future is not in the piece of play (its end, a time limit), $G_t = r_t + \gamma_t v_{t+1}$.

    Args:
        reward_TB: $r_t$.
        discount_TB: $\gamma_t$, 0 where the episode ended for good.
        next_value_TB: $v_{t+1}$, of the observation after step t.
        lam: $\lambda$: 0 gives one-step targets, 1 the discounted sum of rewards.
        last_TB: step t + 1 is not the one that followed step t, so nothing is carried over; the last row always is.

    Returns:
        G, the targets of Q at step t and the action that was taken.

    >>> one = torch.ones(3, 1)
    >>> lambda_returns(one, 0.5 * one, 2 * one, 1.0).T.tolist()
    [[2.0, 2.0, 2.0]]
    >>> lambda_returns(one, 0.5 * one, torch.tensor([[4.0], [0.0], [2.0]]), 0.5).T.tolist()
    [[2.375, 1.5, 2.0]]

    Peng and Williams, 1996; Gallici et al., 2024 (arXiv 2407.04811, PQN), section 4. Actions off the greedy one
    do not cut the trace, as they would in Watkins's.
    """
    returns_TB = torch.empty_like(reward_TB)
    following_B = next_value_TB[-1]
    for t in range(len(reward_TB) - 1, -1, -1):
        mixed_B = torch.lerp(next_value_TB[t], following_B, lam)
        if last_TB is not None:
            mixed_B = torch.where(last_TB[t], next_value_TB[t], mixed_B)
        following_B = torch.addcmul(reward_TB[t], discount_TB[t], mixed_B, out=returns_TB[t])
    return returns_TB


def td_target(
    reward_B: Float[Tensor, " B"], discount_B: Float[Tensor, " B"], next_q_BA: Float[Tensor, "B A"]
) -> Float[Tensor, " B"]:
    r"""$r + \gamma \max_a Q(s', a)$.

    Args:
        reward_B: r.
        discount_B: $\gamma$, 0 where the episode ended for good.
        next_q_BA: Q at the observation that came next, of the target network where there is one.

    Returns:
        The target of Q at the observation and action before.

    >>> td_target(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([[0.0, 4.0]])).item()
    3.0

    Watkins, 1989; Mnih et al., 2015.
    """
    return torch.addcmul(reward_B, discount_B, next_q_BA.amax(1))


def taken(q_BA: Float[Tensor, "B A"], action_B: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Q of the actions that were taken.

    >>> taken(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0])).tolist()
    [2.0, 3.0]
    """
    return q_BA.gather(1, action_B[:, None])[:, 0]


def huber(error_B: Float[Tensor, " B"], limit: float = 1.0) -> Float[Tensor, " B"]:
    r"""$\frac12 e^2$ up to a size of `limit`, then straight with that slope: DQN's "error clipping".

    Args:
        error_B: prediction minus target.
        limit: size of the error, and so of the gradient, from which on it is straight; above 0.

    >>> huber(torch.tensor([-0.5, 3.0])).tolist()
    [0.125, 2.5]

    Mnih et al., 2015, methods: "clipping the squared error to be between -1 and 1", which is of the gradient.
    """
    size_B = error_B.abs()
    inner_B = size_B.clamp(max=limit)
    return inner_B * (size_B - 0.5 * inner_B)

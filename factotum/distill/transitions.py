"""Steps drawn from a replay, for DQN."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TransitionBatch(NamedTuple):
    """N steps drawn at random.

    Attributes:
        observation: (N, ...) what was seen.
        action: (N,) what was done.
        reward: (N,) what was paid.
        next_observation: (N, ...) what was seen after it; where the episode ended there, any observation.
        terminated: (N,) the episode ended there for good.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor

"""From what a policy puts out to an action: the best one, a draw, and with probability epsilon a random one."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError, unknown
from factotum.core.seeding import numpy_generator

KINDS = {
    "q": "Q-values",
    "logits": "logits of a policy",
    "probabilities": "a policy; labels are their logarithms, so that they are logits too",
    "actions": "one discrete action; labels are one-hot",
    "gaussian": "means, then logarithms of deviations, of a continuous action",
    "continuous": "a continuous action itself",
}
"""What the numbers mean that a teacher or a student puts out."""

CONTINUOUS = ("gaussian", "continuous")
SAMPLED = ("logits", "probabilities", "gaussian")
"""Kinds that have a policy to draw from."""


class Chooser:
    """Chooses for a batch of environments.

    Args:
        kind: what the numbers mean, one of `KINDS`.
        epsilon: share of uniformly random actions; the paper's is 0.05 for teachers and students alike.
        seed: parts of the seed of random actions.
        sample: draw from the policy in place of its likeliest action.
        action_space: bounds of continuous actions, into which they are clipped; needed there if epsilon is above 0.

    Raises:
        UserError: an unknown kind, epsilon outside [0, 1], or a choice that this kind does not have.

    >>> Chooser("q", 0.0)(np.array([[1.0, 2.0], [4.0, 3.0]])).tolist()
    [1, 0]
    """

    def __init__(
        self,
        kind: str,
        epsilon: float = 0.05,
        seed: tuple[int | str, ...] = (0,),
        sample: bool = False,
        action_space: spaces.Box | None = None,
    ) -> None:
        if kind not in KINDS:
            raise unknown("kind", str(kind), KINDS)
        if not 0 <= epsilon <= 1:
            raise UserError(f"epsilon: expected a share from 0 to 1, got {epsilon}")
        if sample and kind not in SAMPLED:
            raise UserError(f"sample: expected outputs that are {', '.join(SAMPLED)}, got {kind!r}")
        if kind in CONTINUOUS and epsilon > 0 and action_space is None:
            raise UserError("epsilon: expected 0, or an action_space to draw continuous actions from")
        self.kind, self.epsilon, self.sample, self.action_space = kind, epsilon, sample, action_space
        self.generator = numpy_generator(*seed)

    def __call__(self, outputs_BA: np.ndarray) -> np.ndarray:
        """Actions, `(B,)` int64, or `(B, A)` float32 where they are continuous."""
        if self.kind in CONTINUOUS:
            return self._continuous(outputs_BA)
        actions_B = self._discrete(outputs_BA)
        if self.epsilon > 0:
            drawn_B = self.generator.integers(outputs_BA.shape[1], size=len(actions_B))
            actions_B = np.where(self._chance(len(actions_B)), drawn_B, actions_B)
        return actions_B

    def state_dict(self) -> dict[str, Any]:
        """The state of its random numbers, as JSON values."""
        return {"generator": self.generator.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw on from that state."""
        self.generator.bit_generator.state = state["generator"]

    def _chance(self, count: int) -> np.ndarray:
        return self.generator.random(count) < self.epsilon

    def _discrete(self, outputs_BA: np.ndarray) -> np.ndarray:
        if not self.sample:
            return outputs_BA.argmax(1)
        # the largest of logits with Gumbel noise is a draw from their softmax
        return (outputs_BA + self.generator.gumbel(size=outputs_BA.shape)).argmax(1)

    def _continuous(self, outputs_BA: np.ndarray) -> np.ndarray:
        actions_BA = outputs_BA
        if self.kind == "gaussian":
            actions_BA, log_deviation_BA = np.split(outputs_BA, 2, axis=1)
            if self.sample:
                noise_BA = self.generator.standard_normal(actions_BA.shape)
                actions_BA = actions_BA + np.exp(log_deviation_BA) * noise_BA
        space = self.action_space
        if space is not None:
            if self.epsilon > 0:
                drawn_BA = self.generator.uniform(space.low, space.high, actions_BA.shape)
                actions_BA = np.where(self._chance(len(actions_BA))[:, None], drawn_BA, actions_BA)
            actions_BA = np.clip(actions_BA, space.low, space.high)
        return actions_BA.astype(np.float32)

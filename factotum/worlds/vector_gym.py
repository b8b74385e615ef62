"""Any registered Gymnasium environment with Box observations, side by side in the calling thread.

Time limits are those of the registration. Floating observations come as float32.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from factotum.core.checks import UserError
from factotum.worlds.vector_base import (
    Transition,
    no_snapshot,
    require_actions,
    require_count,
    row_seeds,
)


class VectorGym:
    """`count` environments of one registered id; see `VectorWorld`.

    Args:
        id: "CartPole-v1".
        count: B.

    Raises:
        UserError: not registered, what it needs is not installed, or spaces of other kinds.
    """

    newest: slice | None = None

    def __init__(self, id: str, count: int) -> None:
        require_count(count)
        options = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        try:
            self._env = gymnasium.make_vec(id, count, vectorization_mode="sync", vector_kwargs=options)
        except (gymnasium.error.Error, ImportError) as error:
            raise UserError(f"cannot make the Gymnasium environment {id!r}: {error}") from error
        self.name, self.count = f"gym/{id}", count
        self.observation_space: spaces.Box = _observed(id, self._env.single_observation_space)
        self.action_space: spaces.Discrete | spaces.Box = _acted(id, self._env.single_action_space)
        self._over: np.ndarray | None = None

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode in every row."""
        observation, _ = self._env.reset(seed=row_seeds(seed, self.count))  # type: ignore[arg-type]
        self._over = np.zeros(self.count, bool)
        return self._cast(observation)

    def step(self, action: np.ndarray) -> Transition:
        """Act in every row; rows whose episode was over begin the next one."""
        actions = require_actions(self.action_space, action, self.count)
        if self._over is None:
            raise UserError(f"{self.name}: expected a reset before the first step")
        observation, reward, terminated, truncated, _ = self._env.step(actions)
        begun, self._over = self._over, terminated | truncated
        return Transition(self._cast(observation), reward.astype(np.float32), terminated, truncated, begun)

    def _cast(self, observation: np.ndarray) -> np.ndarray:
        return observation.astype(self.observation_space.dtype, copy=False)

    def snapshot(self) -> None:
        """None: environments of other packages cannot tell where they stand."""

    def restore(self, snapshot: dict[str, Any]) -> np.ndarray:
        """Refused; see `snapshot`."""
        raise no_snapshot(self.name)

    def close(self) -> None:
        """Close every environment."""
        self._env.close()


def _observed(id: str, space: spaces.Space) -> spaces.Box:
    if not isinstance(space, spaces.Box):
        raise UserError(f"{id}: expected Box observations, got {space}")
    if space.dtype != np.float64:
        return space
    return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), space.shape, np.float32)


def _acted(id: str, space: spaces.Space) -> spaces.Discrete | spaces.Box:
    if isinstance(space, spaces.Discrete) and space.start == 0:
        return space
    if isinstance(space, spaces.Box):
        return space
    raise UserError(f"{id}: expected actions in a Box or a Discrete that starts from 0, got {space}")

"""What a world of many environments side by side is: numpy arrays, one row an environment. Builds none.

After the step that ends an episode comes one dummy step in that row (Gymnasium's NEXT_STEP autoreset): its
action is ignored, its reward is zero, its observation begins the next episode, and `begun` is true.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.seeding import derive_seed


class Transition(NamedTuple):
    """What one step of B environments gave.

    Args:
        observation: (B, *shape) after the step; where `begun`, the first of an episode.
        reward: (B,) float32, as the game pays, not clipped.
        terminated: (B,) bool, the episode came to its end.
        truncated: (B,) bool, the episode was cut by its time limit.
        begun: (B,) bool, the dummy step after an episode's end: leave it out of replay and returns.
    """

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    begun: np.ndarray


@runtime_checkable
class VectorWorld(Protocol):
    """B environments of one task. The same seed and the same actions give the same everything.

    Args:
        name: canonical name, "atari/Pong".
        count: B.
        observation_space: of one environment.
        action_space: of one environment, Discrete from 0 or Box.
        newest: where an observation is a stack of frames, which channels are new; None for no stack.
    """

    name: str
    count: int
    observation_space: spaces.Box
    action_space: spaces.Discrete | spaces.Box
    newest: slice | None

    def reset(self, seed: int) -> np.ndarray:
        """Begin B episodes; row b depends on (seed, b) alone, whatever B is. Gives (B, *shape)."""

    def step(self, action: np.ndarray) -> Transition:
        """One action a row, (B,) integers or (B, *shape) floats."""

    def snapshot(self) -> dict[str, Any] | None:
        """Where all games stand, as JSON values; None where the simulator cannot tell."""

    def restore(self, snapshot: dict[str, Any]) -> np.ndarray:
        """Take up where a snapshot was made, bit for bit; gives the observation of that moment."""

    def close(self) -> None:
        """Free what the environments hold."""


def row_seeds(seed: int, count: int) -> list[int]:
    """Seeds of the rows, 31 bits each: unrelated between seeds and rows, independent of `count`.

    >>> row_seeds(0, 3)[:2] == row_seeds(0, 2) != row_seeds(1, 2)
    True
    """
    return [derive_seed(seed, "row", row) % 2**31 for row in range(count)]


def require_count(count: int) -> None:
    """Refuse worlds of no environment."""
    if count < 1:
        raise UserError(f"expected at least one environment, got {count}")


def require_actions(space: spaces.Discrete | spaces.Box, action: np.ndarray, count: int) -> np.ndarray:
    """Actions as an array, one row an environment.

    Raises:
        UserError: of another shape or kind, or outside the action space.

    >>> require_actions(spaces.Discrete(3), np.array([0, 2]), 2)
    array([0, 2])
    """
    given = np.asarray(action)
    shape = (count, *(space.shape or ()))
    if given.shape != shape:
        raise UserError(f"expected actions of shape {shape}, got {given.shape}")
    if isinstance(space, spaces.Box):
        if not np.isfinite(given).all():
            raise UserError("expected finite actions, got NaN or infinity")
        return given.astype(space.dtype, copy=False)
    if not np.issubdtype(given.dtype, np.integer) or given.min() < 0 or given.max() >= space.n:
        raise UserError(f"expected integer actions from 0 to {space.n - 1}, got {given.tolist()}")
    return given.astype(np.int64, copy=False)


def no_snapshot(name: str) -> UserError:
    """The error of worlds whose simulator cannot be taken up."""
    return UserError(f"{name}: its simulator cannot be restored; reset it with another seed to go on")

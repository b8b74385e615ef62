"""Scores and lengths of the games that a learner plays, and what it is told of lives lost in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from factotum.worlds.vector import Transition, VectorWorld


class Tally:
    """Counts for B environments, as the game pays.

    Args:
        world: one that tells `lives` (B,), how many each row has left, or any other.
    """

    def __init__(self, world: VectorWorld) -> None:
        self.world = world
        self.begin()

    def begin(self) -> None:
        """All rows begin new games."""
        self.score_B, self.length_B = np.zeros(self.world.count), np.zeros(self.world.count)
        self.lives_B: np.ndarray | None = getattr(self.world, "lives", None)

    def shown(self, moved: Transition) -> Transition:
        """A step in which a lost life, but the last one, is an end of the episode."""
        before_B, self.lives_B = self.lives_B, getattr(self.world, "lives", None)
        if before_B is None or self.lives_B is None:
            return moved
        # some games go on for a while with none left
        lost_B = (self.lives_B < before_B) & (self.lives_B > 0) & ~moved.begun
        return moved._replace(terminated=moved.terminated | lost_B)

    def count(self, moved: Transition) -> list[tuple[float, float]]:
        """Count a step; score and length of each game that it ended. A dummy step belongs to none."""
        self.score_B += np.where(moved.begun, 0.0, moved.reward)
        self.length_B += ~moved.begun
        ended_B = moved.terminated | moved.truncated
        ended = list(zip(self.score_B[ended_B].tolist(), self.length_B[ended_B].tolist(), strict=True))
        self.score_B[ended_B], self.length_B[ended_B] = 0.0, 0.0
        return ended

    def state(self) -> dict[str, Any]:
        """Games in progress, as JSON values."""
        return {"score": self.score_B.tolist(), "length": self.length_B.tolist()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        self.score_B, self.length_B = np.array(state["score"]), np.array(state["length"])

"""Play with a known truth, for replays: stacks of random frames, episodes that end or are cut, dummy steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np


@dataclass
class Truth:
    """One step as it was; `after` is None where the episode ended for good."""

    observation: np.ndarray
    action: int
    reward: float
    terminated: bool
    after: np.ndarray | None = None


@dataclass
class Play:
    """B environments whose observations are stacks of K frames; labels number the steps.

    Args:
        rows: B.
        stack: K.
        frame: shape of a frame.
        dtype: of observations.
        filled: whether the first stack of an episode repeats its frame (else its older frames are zero).
        seed: of everything.
    """

    rows: int = 2
    stack: int = 4
    frame: tuple[int, ...] = (1, 2, 2)
    dtype: str = "uint8"
    filled: bool = False
    seed: int = 0
    truths: list[Truth] = field(default_factory=list)

    def __post_init__(self):
        self.generator = np.random.default_rng(self.seed)
        self.restart()

    def restart(self):
        """Begin new episodes in all rows, as after a kill."""
        self.seen = np.stack([self._begin() for _ in range(self.rows)])
        self.first = np.ones(self.rows, bool)
        self.over = np.zeros(self.rows, bool)

    @property
    def shape(self):
        return (self.stack * self.frame[0], *self.frame[1:])

    def _frame(self):
        return self.generator.integers(0, 256, self.frame).astype(self.dtype)

    def _begin(self):
        frame = self._frame()
        older = [frame if self.filled else np.zeros_like(frame)] * (self.stack - 1)
        return np.concatenate([*older, frame])

    def step(self, replay):
        """Play a step and append it."""
        seen, first = self.seen, self.first
        action, begun = self.generator.integers(0, 5, self.rows), self.over
        ends, reward = (
            self.generator.random(self.rows),
            self.generator.normal(size=self.rows).astype(np.float32),
        )
        terminated, truncated = (ends < 0.15) & ~begun, (ends > 0.85) & ~begun
        after = np.stack(
            [
                self._begin() if new else np.concatenate([row[self.frame[0] :], self._frame()])
                for row, new in zip(seen, begun, strict=True)
            ]
        )
        moved = SimpleNamespace(
            observation=after,
            reward=np.where(begun, 0, reward).astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            begun=begun,
        )
        label = np.full((self.rows, 2), -1.0, np.float32)
        for row in np.flatnonzero(~begun):
            label[row] = [len(self.truths), row]
            end = bool(terminated[row])
            self.truths.append(
                Truth(seen[row], int(action[row]), float(reward[row]), end, None if end else after[row])
            )
        replay.append(seen, first, label, action, moved)
        self.seen, self.first, self.over = after, begun, terminated | truncated

    def steps(self, replay, count):
        for _ in range(count):
            self.step(replay)

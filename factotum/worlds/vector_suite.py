"""Tasks of the suites side by side in the calling thread, with their experts where they are asked for.

An episode is scored as its task is measured: "return" pays the environment's rewards, "success" pays 1 at the first
success, which ends the episode, and nothing else. Observations are arrays, see `vector_arrays`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.seeding import derive_seed
from factotum.worlds.suites import babyai, box2d, metaworld, mujoco
from factotum.worlds.suites.task import Env, Expert, ExpertFailure, Suite, Task
from factotum.worlds.vector_arrays import SEVERAL, array_space
from factotum.worlds.vector_base import (
    Transition,
    no_snapshot,
    require_actions,
    require_count,
    row_seeds,
)

SUITES: dict[str, Suite] = {
    suite.name: suite for suite in (babyai.SUITE, metaworld.SUITE, box2d.SUITE, mujoco.SUITE)
}


class VectorSuite:
    """`count` environments of one task of a suite; see `VectorWorld`.

    Args:
        name: "babyai/GoToLocal", "metaworld/reach".
        count: B.

    After `advise`, from the next reset on, an expert watches every row:

    Attributes:
        advice: what the experts would do next, (B,) int64 or (B, A) float32; zeros where `lost`, and after an
            episode's end.
        lost: (B,) rows whose expert has given up in this episode.
        shown: the newest observations, (B, ...); advice is for these.

    Raises:
        UserError: no such task, what it needs is not installed, or observations that are no array.
    """

    newest: slice | None = None

    def __init__(self, name: str, count: int) -> None:
        require_count(count)
        self._task: Task = SUITES[name.partition("/")[0]].task(name)
        self.name, self.count = name, count
        self.observation_space, make_encode = array_space(self._task)
        self._encode = [make_encode() for _ in range(count)]
        self.action_space: spaces.Discrete | spaces.Box = self._task.action_space  # type: ignore[assignment]
        self._envs: Sequence[Env] = [self._task.make() for _ in range(count)]
        self._experts: list[Expert | None] = [None] * count
        self._advises = False
        self._over: np.ndarray | None = None

    def advise(self) -> None:
        """Have experts watch from the next reset on.

        Raises:
            UserError: the task has none.
        """
        if self._task.make_expert is None:
            raise UserError(f"{self.name}: expected a task with an expert, this one has none")
        self._advises = True

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode in every row."""
        self._seeds, self._episode = row_seeds(seed, self.count), [0] * self.count
        self._over = np.zeros(self.count, bool)
        self._length = np.zeros(self.count, np.int64)
        self.lost = np.zeros(self.count, bool)
        space = self.action_space
        self.advice = np.zeros((self.count, *(space.shape or ())), space.dtype)
        self.shown = np.stack([self._begin(row, start) for row, start in enumerate(self._seeds)])
        return self.shown

    def step(self, action: np.ndarray) -> Transition:
        """Act in every row; rows whose episode was over begin the next one."""
        actions = require_actions(self.action_space, action, self.count)
        if self._over is None:
            raise UserError(f"{self.name}: expected a reset before the first step")
        seen, begun = np.empty_like(self.shown), self._over
        reward = np.zeros(self.count, np.float32)
        terminated, truncated = np.zeros(self.count, bool), np.zeros(self.count, bool)
        for row in range(self.count):
            if begun[row]:
                self._episode[row] += 1
                seed = derive_seed(self._seeds[row], "episode", self._episode[row]) % 2**31
                seen[row] = self._begin(row, seed)
            else:
                seen[row], reward[row], terminated[row], truncated[row] = self._act(row, actions[row])
        self._over, self.shown = terminated | truncated, seen
        return Transition(seen, reward, terminated, truncated, begun)

    def _begin(self, row: int, seed: int) -> np.ndarray:
        observation, _ = self._envs[row].reset(seed=seed)
        self._length[row], self.lost[row] = 0, False
        if self._advises:
            assert self._task.make_expert is not None
            self._experts[row] = self._task.make_expert(self._envs[row])
            self._ask(row, observation, None)
        return self._encode[row](observation, None)

    def _act(self, row: int, action: Any) -> tuple[np.ndarray, float, bool, bool]:
        observation, reward, terminated, truncated, info = self._envs[row].step(action)
        self._length[row] += 1
        if self._task.measure == "success":
            reward = float(info["success"])
        truncated = not terminated and (truncated or self._length[row] >= self._task.max_steps)
        if self._advises:
            if terminated or truncated:
                self.advice[row] = 0
            else:
                self._ask(row, observation, action)
        return self._encode[row](observation, action), float(reward), bool(terminated), bool(truncated)

    def _ask(self, row: int, observation: Any, last_action: Any) -> None:
        """What the row's expert would do now; one that gave up is not asked again in this episode."""
        self.advice[row] = 0
        if self.lost[row]:
            return
        expert = self._experts[row]
        assert expert is not None
        try:
            self.advice[row] = expert(observation, last_action)
        except ExpertFailure:
            self.lost[row] = True

    def snapshot(self) -> None:
        """None: environments of other packages cannot tell where they stand."""

    def restore(self, snapshot: dict[str, Any]) -> np.ndarray:
        """Refused; see `snapshot`."""
        raise no_snapshot(self.name)

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()


def suite_names() -> tuple[str, ...]:
    """The tasks that there are worlds of: BabyAI's with one object a mission, Meta-World's, Box2D's, MuJoCo's.

    >>> {"babyai/GoToLocal", "metaworld/reach"} <= set(suite_names()), "babyai/PutNext" in suite_names()
    (True, False)
    """
    several = {f"babyai/{level}" for level in SEVERAL}
    return tuple(name for suite in SUITES.values() for name in suite.names if name not in several)

"""Environments and agents with known answers, for the tests of evaluation."""

from __future__ import annotations

import string
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

OBSERVATIONS = spaces.Dict(
    {
        "instruction": spaces.Text(64, charset=string.printable),
        "state": spaces.Box(-100, 100, (2,), np.float32),
    }
)


class Countdown(gymnasium.Env):
    """Lasts 1 + seed % 7 steps; action 1 earns seed % 5 a step, action 0 nothing; success if ever earned."""

    def __init__(self, fault: str | None = None) -> None:
        self.observation_space, self.action_space = OBSERVATIONS, spaces.Discrete(2)
        self.fault = fault
        self.closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        assert seed is not None
        self.left, self.worth = 1 + seed % 7, seed % 5
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self.left > 0, "stepped after the end"
        self.left -= 1
        reward = float(self.worth * action)
        return self._observe(), reward, self.left == 0, False, {"success": reward > 0}

    def _observe(self) -> dict[str, Any]:
        state = np.array([self.left, self.worth], np.float32)
        if self.fault == "nan" and self.left == 1:
            state[1] = np.nan
        if self.fault == "bounds" and self.left == 1:
            state[0] = 101
        observation = {"instruction": "Count.", "state": state}
        if self.fault == "key":
            del observation["instruction"]
        return observation

    def render(self) -> np.ndarray:
        return np.full((20, 30, 3), 30 * self.left, np.uint8)

    def close(self) -> None:
        self.closed = True


class Parity:
    """Acts by what it has seen since the episode began, so that a mixed-up row shows."""

    def initial_state(self, batch_size: int) -> list[float]:
        self.batches = [batch_size]
        return [0.0] * batch_size

    def step(self, inputs: tuple[list[Any], list[bool]], state: list[float]) -> tuple[list[int], list[float]]:
        observations, first = inputs
        self.batches.append(len(observations))
        seen = [0.0 if new else old for new, old in zip(first, state, strict=True)]
        seen = [old + float(obs["state"].sum()) for old, obs in zip(seen, observations, strict=True)]
        return [int(total) % 2 for total in seen], seen

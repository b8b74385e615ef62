"""A suite as a user would register it from outside: CartPole, and variants of it that misbehave."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.worlds.suites.common import state_space, with_instruction
from factotum.worlds.suites.task import ExpertFailure, Reference, Suite, Task

STEPS = 40
OBSERVATIONS = with_instruction(state=state_space(4), seed=spaces.Discrete(1_000_000_000))
FAULTS = ("Balance", "Fails", "Hangs", "Crashes", "Outside", "Chatty", "NoExpert", "Hopeless", "Unmeasured")


class Pole(gymnasium.Wrapper):
    """CartPole whose observation says which episode it is; `fault` is what goes wrong in every fourth."""

    def __init__(self, fault: str) -> None:
        super().__init__(gymnasium.make("CartPole-v1", max_episode_steps=STEPS))
        self.observation_space, self.fault, self.broken = OBSERVATIONS, fault, False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        assert seed is not None
        assert not self.broken, "an environment that crashed is not to be used again"
        self.seed = seed
        state, info = self.env.reset(seed=seed)
        return self._observe(state), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        state, reward, terminated, truncated, info = self.env.step(int(action))
        if self.fault == "Chatty":
            print("Sampling rejected")
        if self.bad and self.fault == "Crashes":
            self.broken = True
            raise RuntimeError("physics\nexploded")
        if self.bad and self.fault == "Outside":
            state = state * np.nan
        return self._observe(state), float(reward), terminated, truncated, info

    @property
    def bad(self) -> bool:
        return self.seed % 4 == 1

    def _observe(self, state: np.ndarray) -> dict[str, Any]:
        return {"instruction": "balance the pole", "state": np.asarray(state, np.float32), "seed": self.seed}


def make_expert(env: gymnasium.Env) -> Any:
    asked = 0

    def act(observation: Any, last_action: Any) -> int:
        nonlocal asked
        asked += 1
        if env.bad and env.fault == "Fails":
            raise ExpertFailure("no plan")
        while env.bad and env.fault == "Hangs":
            time.sleep(0.01)
        _, _, angle, velocity = observation["state"]
        # Seeds that 7 divides are played badly: the filter has something to find.
        action = int(angle + 0.3 * velocity > 0)
        return 1 - action if env.seed % 7 == 6 or env.fault == "Hopeless" else action

    return act


def task(name: str) -> Task:
    fault = name.partition("/")[2]
    return Task(
        name=name,
        make=lambda: Pole(fault),
        observation_space=OBSERVATIONS,
        action_space=spaces.Discrete(2),
        instruction="balance the pole",
        body="toy/pole",
        measure="return",
        max_steps=STEPS,
        make_expert=None if fault == "NoExpert" else make_expert,
        random=Reference(20.0, "guess"),
        expert=None if fault == "Unmeasured" else Reference(float(STEPS), "counted"),
    )


def suite() -> Suite:
    return Suite("toy", "Poles", tuple(f"toy/{fault}" for fault in FAULTS), task)

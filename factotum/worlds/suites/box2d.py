"""Box2D control: the lunar lander and the two-legged walker, with gymnasium's heuristics (package Box2D)."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.worlds.suites.common import (
    Instructed,
    reference,
    render_offscreen,
    require,
    state_space,
    with_instruction,
)
from factotum.worlds.suites.task import Expert, Suite, Task

IDS = {
    "LunarLander": "LunarLander-v3",
    "LunarLanderContinuous": "LunarLanderContinuous-v3",
    "BipedalWalker": "BipedalWalker-v3",
}
INSTRUCTIONS = {
    "LunarLander": "land softly between the flags",
    "LunarLanderContinuous": "land softly between the flags",
    "BipedalWalker": "walk forward without falling",
}
OBSERVATION_SPACES = {
    "LunarLander": with_instruction(state=state_space(8)),
    "LunarLanderContinuous": with_instruction(state=state_space(8)),
    "BipedalWalker": with_instruction(state=state_space(24)),
}
ACTION_SPACES: dict[str, spaces.Space] = {
    "LunarLander": spaces.Discrete(4),
    "LunarLanderContinuous": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "BipedalWalker": spaces.Box(-1.0, 1.0, (4,), np.float32),
}
MAX_STEPS = {"LunarLander": 1000, "LunarLanderContinuous": 1000, "BipedalWalker": 1600}


def make(name: str) -> gymnasium.Env:
    """A problem as Factotum's tasks see it.

    Raises:
        UserError: Box2D is not installed.
    """
    require("Box2D", "box2d")
    render_offscreen()
    env = gymnasium.make(IDS[name], render_mode="rgb_array", disable_env_checker=True)
    return Instructed(env, INSTRUCTIONS[name], OBSERVATION_SPACES[name])


def lander_expert(env: gymnasium.Env) -> Expert:
    """Gymnasium's feedback controller for the lander, discrete and continuous."""
    from gymnasium.envs.box2d.lunar_lander import heuristic

    continuous = isinstance(env.action_space, spaces.Box)

    def act(observation: Any, last_action: Any) -> Any:
        action = heuristic(env, observation["state"])
        return np.asarray(action, np.float32) if continuous else np.int64(action)

    return act


def walker_expert(env: gymnasium.Env) -> Expert:
    """Gymnasium's gait for the walker: it has no notion of balance and sometimes falls."""
    from gymnasium.envs.box2d.bipedal_walker import BipedalWalkerHeuristics

    gait = BipedalWalkerHeuristics()
    gait.a = np.zeros(4)  # the class shares one array among its instances
    return lambda observation, last_action: gait.step_heuristic(observation["state"]).astype(np.float32)


def task(name: str) -> Task:
    """The task of a full name.

    >>> task("box2d/LunarLander").action_space
    Discrete(4)
    """
    short = name.partition("/")[2]
    return Task(
        name=name,
        make=partial(make, short),
        observation_space=OBSERVATION_SPACES[short],
        action_space=ACTION_SPACES[short],
        instruction=INSTRUCTIONS[short],
        body="box2d/walker" if short == "BipedalWalker" else "box2d/lander",
        measure="return",
        max_steps=MAX_STEPS[short],
        make_expert=walker_expert if short == "BipedalWalker" else lander_expert,
        random=reference(name, "random"),
        expert=reference(name, "expert"),
    )


SUITE = Suite(
    name="box2d",
    title="Box2D: lunar lander and two-legged walker",
    names=tuple(f"box2d/{name}" for name in IDS),
    task=task,
    requires=("Box2D",),
    extra="box2d",
)

"""BabyAI levels seen as images alone: the 7 x 7 cells ahead, rendered at 8 pixels a cell (package minigrid).

No symbols and no direction. The 56 x 56 view stands in the upper left of a black 64 x 64 image, so that
it makes 16 patches of 2 x 2 cells. (At 16 pixels a cell, one patch a cell, an observation would take
49 patches: three times the tokens and the pixels for the same knowledge.)
The level, its reward and its bot are those of the `babyai` suite, and so are the reference scores.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.core.checks import unknown
from factotum.worlds.suites import babyai
from factotum.worlds.suites.common import silenced, with_instruction
from factotum.worlds.suites.task import Reference, Suite, Task

LEVELS = (
    "GoToObj",
    "GoToRedBallGrey",
    "GoToRedBall",
    "GoToRedBlueBall",
    "GoToLocal",
    "OneRoomS8",
    "OpenDoor",
    "OpenRedDoor",
    "PickupDist",
    "PickupLoc",
    "PutNextLocal",
)
CELL = 8
"""Pixels of a rendered cell's side."""

SIZE = 64
"""Height and width of the image: a multiple of the 16-pixel patches."""

OBSERVATION_SPACE = with_instruction(
    babyai.MISSION_LENGTH, image=spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
)


class Pixels(gymnasium.Wrapper):
    """A minigrid level with the mission as instruction and the agent's view as "image"."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = OBSERVATION_SPACE
        self.action_space = babyai.ACTION_SPACE

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Begin an episode."""
        with silenced():  # level generators print every rejected sample
            observation, info = self.env.reset(seed=seed, options=options)
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Turn, move, pick up, drop, toggle, or declare done."""
        observation, reward, terminated, truncated, info = self.env.step(int(action))
        return self._seen(observation), float(reward), bool(terminated), bool(truncated), info

    def _seen(self, observation: dict[str, Any]) -> dict[str, Any]:
        view = self.env.unwrapped.get_frame(tile_size=CELL, agent_pov=True)  # type: ignore[attr-defined]
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        image[: view.shape[0], : view.shape[1]] = view
        return {"instruction": observation["mission"], "image": image}


def make(level: str) -> gymnasium.Env:
    """A level as this suite's tasks see it.

    Raises:
        UserError: minigrid is not installed.
    """
    return Pixels(babyai.make_level(level))


def _task(name: str) -> Task:
    level = name.partition("/")[2]
    if level not in LEVELS:
        raise unknown("task", name, SUITE.names)
    twin = babyai.SUITE.task(f"babyai/{level}")
    return replace(
        twin,
        name=name,
        make=partial(make, level),
        observation_space=OBSERVATION_SPACE,
        body="pixels/agent",
        random=_borrowed(twin.random, twin.name),
        expert=_borrowed(twin.expert, twin.name),
    )


def _borrowed(score: Reference | None, owner: str) -> Reference | None:
    """A reference of the same level in symbols: neither random play nor the bot looks at the image."""
    return score and Reference(score.score, f"{score.source}; on {owner}, the same game")


SUITE = Suite(
    name="pixels",
    title="BabyAI levels seen as images",
    names=tuple(f"pixels/{level}" for level in LEVELS),
    task=_task,
    requires=babyai.SUITE.requires,
    extra=babyai.SUITE.extra,
)

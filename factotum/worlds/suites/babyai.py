"""BabyAI: 39 grid levels with missions in words, and the bot that solves them (package minigrid).

The agent sees the 7 x 7 cells in front of it as symbols, the direction it faces and the mission.
Reference: Chevalier-Boisvert et al., "BabyAI" (2019), arXiv 1810.08272, sections 3 and 4.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.worlds.suites.common import reference, require, silenced, time_limit, with_instruction
from factotum.worlds.suites.jat import jat_reference
from factotum.worlds.suites.task import Expert, ExpertFailure, Suite, Task

# Most steps an episode may last: navigations in the longest mission x cells of the maze.
MAX_STEPS = {
    "ActionObjDoor": 441,
    "BlockedUnlockPickup": 576,
    "BossLevel": 4608,
    "BossLevelNoUnlock": 4608,
    "FindObjS5": 500,
    "GoTo": 576,
    "GoToDoor": 441,
    "GoToImpUnlock": 576,
    "GoToLocal": 64,
    "GoToObj": 64,
    "GoToObjDoor": 576,
    "GoToRedBall": 64,
    "GoToRedBallGrey": 64,
    "GoToRedBallNoDists": 64,
    "GoToRedBlueBall": 64,
    "GoToSeq": 2304,
    "KeyCorridor": 1080,
    "MiniBossLevel": 800,
    "MoveTwoAcrossS8N9": 1024,
    "OneRoomS8": 64,
    "Open": 576,
    "OpenDoor": 576,
    "OpenDoorsOrderN4": 720,
    "OpenRedDoor": 50,
    "OpenTwoDoors": 720,
    "Pickup": 576,
    "PickupAbove": 288,
    "PickupDist": 49,
    "PickupLoc": 64,
    "PutNext": 392,
    "PutNextLocal": 128,
    "Synth": 1152,
    "SynthLoc": 1152,
    "SynthSeq": 4608,
    "UnblockPickup": 576,
    "Unlock": 576,
    "UnlockLocal": 576,
    "UnlockPickup": 72,
    "UnlockToUnlock": 1080,
}
LEVEL_IDS = {"PutNext": "PutNextS7N4"}  # the variant that JAT calls put-next
MISSION_LENGTH = 384
VIEW = 7
CELL = (11, 6, 3)  # kinds of object, colours, door states
SEARCHES = 200
"""Breadth-first searches in one decision after which the bot is declared lost; it needs at most 9."""
SECONDS = 20.0

OBSERVATION_SPACE = with_instruction(
    MISSION_LENGTH,
    grid=spaces.MultiDiscrete(np.broadcast_to(np.array(CELL), (VIEW, VIEW, 3)).copy(), dtype=np.uint8),
    direction=spaces.Discrete(4),
)
ACTION_SPACE = spaces.Discrete(7)


class BabyAI(gymnasium.Wrapper):
    """A level with the mission as instruction, symbols as "grid" and the heading as "direction"."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = OBSERVATION_SPACE
        self.action_space = ACTION_SPACE

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """See `gymnasium.Env.reset`."""
        with silenced():  # level generators print every rejected sample
            observation, info = self.env.reset(seed=seed, options=options)
        return _observation(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """See `gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = self.env.step(int(action))
        return _observation(observation), float(reward), bool(terminated), bool(truncated), info


def _observation(observation: dict[str, Any]) -> dict[str, Any]:
    return {
        "instruction": observation["mission"],
        "grid": observation["image"].astype(np.uint8),
        "direction": np.int64(observation["direction"]),
    }


def level_id(level: str) -> str:
    """The name under which minigrid registers a level.

    >>> level_id("GoToLocal")
    'BabyAI-GoToLocal-v0'
    """
    return f"BabyAI-{LEVEL_IDS.get(level, level)}-v0"


def make_level(level: str, **options: Any) -> gymnasium.Env:
    """The bare minigrid environment of a level, with minigrid's own observations.

    Args:
        level: name without the suite, such as "GoToLocal".
        options: passed on to `gymnasium.make`.

    Raises:
        UserError: minigrid is not installed.
    """
    require("minigrid", "babyai")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import minigrid  # noqa: F401  (registers the levels)

    with silenced():
        return gymnasium.make(level_id(level), render_mode="rgb_array", disable_env_checker=True, **options)


def make(level: str) -> gymnasium.Env:
    """A level as Factotum's tasks see it."""
    return BabyAI(make_level(level))


def make_expert(env: gymnasium.Env) -> Expert:
    """The BabyAI bot for the episode that `env` has just begun.

    Its planner loops for ever on some seeds (Unlock, GoToImpUnlock, UnlockToUnlock): a bound on its
    searches, the same on every machine, ends that; a wall-clock limit stands behind it.
    """
    from minigrid.utils.baby_ai_bot import BabyAIBot

    class BoundedBot(BabyAIBot):
        searches_before = 0

        def _breadth_first_search(self, *arguments: Any, **options: Any) -> Any:
            if self.bfs_counter - self.searches_before >= SEARCHES:
                raise ExpertFailure(f"bot lost after {SEARCHES} searches for one action")
            return super()._breadth_first_search(*arguments, **options)

    bot = BoundedBot(env.unwrapped)

    def act(observation: Any, last_action: Any) -> np.int64:
        bot.searches_before = bot.bfs_counter
        try:
            with time_limit(SECONDS):
                return np.int64(bot.replan(None if last_action is None else int(last_action)))
        except ExpertFailure:
            raise
        except Exception as error:  # it asserts and dereferences None where it does not know its way
            raise ExpertFailure(f"bot failed: {error!r}") from error

    return act


def task(name: str) -> Task:
    """The task of a full name.

    >>> task("babyai/BossLevel").max_steps
    4608
    """
    level = name.partition("/")[2]
    return Task(
        name=name,
        make=partial(make, level),
        observation_space=OBSERVATION_SPACE,
        action_space=ACTION_SPACE,
        instruction="carry out the mission",
        body="babyai/agent",
        measure="return",
        max_steps=MAX_STEPS[level],
        make_expert=make_expert,
        random=reference(name, "random") or jat_reference(name, "random"),
        expert=reference(name, "expert") or jat_reference(name, "expert"),
    )


SUITE = Suite(
    name="babyai",
    title="BabyAI: 39 grid levels with missions in words",
    names=tuple(f"babyai/{level}" for level in MAX_STEPS),
    task=task,
    requires=("minigrid",),
    extra="babyai",
)

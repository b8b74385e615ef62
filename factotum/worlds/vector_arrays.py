"""What a suite's observation is as one array: vectors as they are, BabyAI's grids as planes.

A plane is one 7 x 7 array of true and false. BabyAI's observation is 64 of them: for each cell what kind of object is
there (11 planes: unseen, empty, wall, floor, door, key, ball, box, goal, lava, agent), of which colour (6) and in
which state (3: open, closed, locked); then, the same in every cell, the heading (4: right, down, left, up), what was
done last (7: left, right, forward, pick up, drop, toggle, done; none of them at an episode's beginning) and the words
of the mission (33, see `WORDS`), each true if the word occurs. What is carried lies in the agent's own cell, the
middle of the last row. Without what was done last, who looks around turns to and fro: left and right are as good.
A set of words does not tell their order: missions of several objects are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.worlds.suites.babyai import ACTION_SPACE, CELL, VIEW
from factotum.worlds.suites.task import Task

WORDS = (
    ",", "a", "after", "and", "ball", "behind", "blue", "box", "door", "front", "go", "green", "grey", "in", "key",
    "left", "next", "object", "of", "on", "open", "pick", "purple", "put", "red", "right", "the", "then", "to", "up",
    "yellow", "you", "your",
)  # fmt: skip
"""All that BabyAI's missions are made of."""

SEVERAL = frozenset({
    "BossLevel", "BossLevelNoUnlock", "GoToSeq", "MiniBossLevel", "MoveTwoAcrossS8N9", "OpenDoorsOrderN4",
    "OpenTwoDoors", "PutNext", "PutNextLocal", "Synth", "SynthLoc", "SynthSeq",
})  # fmt: skip
"""BabyAI's levels in whose missions the order of words matters."""

HEADING = sum(CELL)
LAST_ACTION = HEADING + 4
MISSION = LAST_ACTION + int(ACTION_SPACE.n)
PLANES = MISSION + len(WORDS)
"""Where the planes of each kind begin, and how many there are."""

Encode = Callable[[Any, Any], np.ndarray]
"""`encode(observation, last_action)`, None at an episode's beginning."""


def array_space(task: Task) -> tuple[spaces.Box, Encode]:
    """The space of a task's observations as arrays, and what makes an array of an observation.

    Args:
        task: of BabyAI, or one whose observations are a state beside an instruction that stays the same.

    Raises:
        UserError: other observations, or a mission that a set of words does not tell.
    """
    space = task.observation_space
    entries = set(space) - {"instruction"} if isinstance(space, spaces.Dict) else None
    if entries == {"state"}:
        state = space["state"]  # type: ignore[index]
        if isinstance(state, spaces.Box) and len(state.shape) == 1:
            return state, lambda observation, last_action: observation["state"]
    if entries == {"grid", "direction"}:
        if task.name.partition("/")[2] in SEVERAL:
            raise UserError(
                f"{task.name}: expected a level whose missions name one object, since order of words is not observed"
            )
        return spaces.Box(0, 1, (PLANES, VIEW, VIEW), bool), planes  # type: ignore[arg-type]
    raise UserError(f"{task.name}: expected observations with a state or a grid, got {space}")


def planes(observation: dict[str, Any], last_action: int | None) -> np.ndarray:
    """The planes of an observation of BabyAI, (64, 7, 7) bool.

    Args:
        observation: a task's.
        last_action: what was done before it, None at an episode's beginning.

    Raises:
        UserError: a word that no mission has.

    >>> grid = np.full((7, 7, 3), [2, 5, 0])
    >>> seen = planes({"grid": grid, "direction": 3, "instruction": "open the door"}, last_action=0)
    >>> seen.any((1, 2)).nonzero()[0].tolist(), [WORDS[i - MISSION] for i in (39, 51, 57)]
    ([2, 16, 17, 23, 24, 39, 51, 57], ['door', 'open', 'the'])
    """
    made = np.zeros((PLANES, VIEW, VIEW), bool)
    begin = 0
    for entry, count in enumerate(CELL):
        # the first axis of minigrid's picture runs to the right, the second one down
        made[begin : begin + count] = np.arange(count)[:, None, None] == observation["grid"][..., entry].T
        begin += count
    made[HEADING + int(observation["direction"])] = True
    if last_action is not None:
        made[LAST_ACTION + int(last_action)] = True
    for word in observation["instruction"].replace(",", " , ").split():
        if word not in WORDS:
            raise UserError(
                f"mission: expected words of BabyAI, got {word!r} in {observation['instruction']!r}"
            )
        made[MISSION + WORDS.index(word)] = True
    return made

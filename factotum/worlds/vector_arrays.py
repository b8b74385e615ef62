"""What a suite's observation is as one array: vectors as they are, BabyAI's grids as planes.

A plane is one 7 x 7 array of true and false. BabyAI's observation is 68 of them: for each cell what kind of object is
there (11 planes: unseen, empty, wall, floor, door, key, ball, box, goal, lava, agent), of which colour (6), in which
state (3: open, closed, locked), and whether it lies in front, to the right, behind or to the left of where the episode
began (4); then, the same in every cell, the heading (4: right, down, left, up), what was done last (7: left, right,
forward, pick up, drop, toggle, done; none of them at an episode's beginning) and the words of the mission (33, see
`WORDS`), each true if the word occurs. What is carried lies in the agent's own cell, the middle of the last row.
Without what was done last, who looks around turns to and fro: left and right are as good. Without where the episode
began, "the ball on your left" cannot be told from another once the agent has turned.
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

SIDES = sum(CELL)
HEADING = SIDES + 4
LAST_ACTION = HEADING + 4
MISSION = LAST_ACTION + int(ACTION_SPACE.n)
PLANES = MISSION + len(WORDS)
"""Where the planes of each kind begin, and how many there are."""

Encode = Callable[[Any, Any], np.ndarray]
"""`encode(observation, last_action)`, None at an episode's beginning."""

STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
"""One cell ahead by heading, (right, down)."""

AHEAD, ASIDE = (VIEW - 1 - np.arange(VIEW))[:, None, None], (np.arange(VIEW) - VIEW // 2)[:, None]
"""How far each cell in view lies ahead of the agent, and to its right."""

FORWARD = 2
EMPTY, FLOOR, DOOR, GOAL, LAVA, OPEN = 1, 3, 4, 8, 9, 0


def array_space(task: Task) -> tuple[spaces.Box, Callable[[], Encode]]:
    """The space of a task's observations as arrays, and what makes an array of an observation: one an environment.

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
            return state, lambda: lambda observation, last_action: observation["state"]
    if entries == {"grid", "direction"}:
        if task.name.partition("/")[2] in SEVERAL:
            raise UserError(
                f"{task.name}: expected a level whose missions name one object, since order of words is not observed"
            )
        return spaces.Box(0, 1, (PLANES, VIEW, VIEW), bool), Planes  # type: ignore[arg-type]
    raise UserError(f"{task.name}: expected observations with a state or a grid, got {space}")


class Planes:
    """The planes of BabyAI's observations in one environment, (68, 7, 7) bool, in the order in which they come.

    It counts its own steps: whether one succeeded shows in the cell that was ahead.

    Raises of a call:
        UserError: a word that no mission has.

    >>> grid = np.full((7, 7, 3), [2, 5, 0])
    >>> seen = Planes()({"grid": grid, "direction": 3, "instruction": "open the door"}, None)
    >>> seen[HEADING:].any((1, 2)).nonzero()[0].tolist(), [WORDS[i - MISSION] for i in (43, 55, 61)]
    ([3, 19, 31, 37], ['door', 'open', 'the'])
    >>> [int(side.sum()) for side in seen[SIDES:HEADING]]
    [42, 21, 0, 21]
    """

    def __init__(self) -> None:
        self._place = np.zeros(2, np.int64)
        self._heading = self._first_heading = 0
        self._free = False

    def __call__(self, observation: dict[str, Any], last_action: int | None) -> np.ndarray:
        """The planes of what is seen after `last_action`, None at an episode's beginning."""
        self._walk(observation, last_action)
        made = np.zeros((PLANES, VIEW, VIEW), bool)
        begin = 0
        for entry, count in enumerate(CELL):
            # the first axis of minigrid's picture runs to the right, the second one down
            made[begin : begin + count] = np.arange(count)[:, None, None] == observation["grid"][..., entry].T
            begin += count
        made[SIDES:HEADING] = sides(self._place, self._heading, self._first_heading)
        made[HEADING + self._heading] = True
        if last_action is not None:
            made[LAST_ACTION + int(last_action)] = True
        made[MISSION:] = mentioned(observation["instruction"])[:, None, None]
        return made

    def _walk(self, observation: dict[str, Any], last_action: int | None) -> None:
        """Where the agent stands, counted from where the episode began."""
        heading = int(observation["direction"])
        if last_action is None:
            self._place, self._first_heading = np.zeros(2, np.int64), heading
        elif last_action == FORWARD and self._free:
            self._place = self._place + STEPS[self._heading]
        kind, _, state = observation["grid"][VIEW // 2, VIEW - 2]
        self._free = kind in (EMPTY, FLOOR, GOAL, LAVA) or (kind == DOOR and state == OPEN)
        self._heading = heading


def sides(place: np.ndarray, heading: int, first_heading: int) -> np.ndarray:
    """Which cells in view lie in front, to the right, behind and to the left of where an episode began, (4, 7, 7).

    Args:
        place: (right, down) of the agent, from there.
        heading: the agent's.
        first_heading: at the beginning.
    """
    cells = place + AHEAD * STEPS[heading] + ASIDE * STEPS[(heading + 1) % 4]
    front, right = cells @ STEPS[first_heading], cells @ STEPS[(first_heading + 1) % 4]
    return np.stack([front > 0, right > 0, front < 0, right < 0])


def mentioned(mission: str) -> np.ndarray:
    """Which of `WORDS` a mission has, bool.

    Raises:
        UserError: a word that is none of them.
    """
    found = np.zeros(len(WORDS), bool)
    for word in mission.replace(",", " , ").split():
        if word not in WORDS:
            raise UserError(f"mission: expected words of BabyAI, got {word!r} in {mission!r}")
        found[WORDS.index(word)] = True
    return found

"""The five games of MinAtar: Atari's ideas on 10 x 10 cells (package MinAtar, 1.0.15).

Conventions, which scores depend on: sticky actions with probability 0.1 and difficulty that ramps up, both as
the package has them; the game's minimal action set (of six actions some do nothing, and ties among those would
blur who agrees with whom); rewards as the game pays them; an episode ends where the game does, or is cut after
10,000 steps (the package has no limit; gymnax, whose scores are often quoted, cuts at 1,000).
Everything is a function of the seed: the games' random numbers, and that nothing is held at the first step,
where the package would repeat the last action of the episode before.

The games themselves import numpy alone. They are loaded from their files, because the package's own `__init__`
imports seaborn, and with it matplotlib, pandas and scipy, to draw. (They are installed with it all the same:
`pip install --no-deps MinAtar==1.0.15` leaves them out and all of this works.)
Reference: Young and Tian, "MinAtar: An Atari-Inspired Testbed" (2019), arXiv 1903.03176.
"""

from __future__ import annotations

from functools import lru_cache, partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError, unknown
from factotum.worlds.suites.common import reference, require, with_instruction
from factotum.worlds.suites.task import Suite, Task

GAMES = {
    "asterix": (4, (0, 1, 2, 3, 4)),
    "breakout": (4, (0, 1, 3)),
    "freeway": (7, (0, 2, 4)),
    "seaquest": (10, (0, 1, 2, 3, 4, 5)),
    "space_invaders": (6, (0, 1, 3, 5)),
}
"""Channels, and the minimal actions among: nothing, left, up, right, down, fire."""

CELLS = 10
STICKY = 0.1
MAX_STEPS = 10_000

SCALE, SIZE, PLANES = 3, 32, 4
"""Pixels of a cell's side, height and width of an image (a multiple of the 16-pixel patches), its channels."""

OBSERVATION_SPACE = with_instruction(64, image=spaces.Box(0, 255, (SIZE, SIZE, PLANES), np.uint8))


class Game:
    """One game of the package with its sticky actions.

    Args:
        name: one of `GAMES`.

    Raises:
        UserError: no such game, or MinAtar is not installed.
    """

    __slots__ = ("env", "last_action", "random")

    def __init__(self, name: str) -> None:
        self.env = game_module(name).Env(ramping=True)
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Draw from here on as `minatar.Environment.seed` does, and begin an episode."""
        self.random = self.env.random = np.random.RandomState(seed)
        self.begin()

    def begin(self) -> None:
        """Begin the next episode of the same stream of random numbers."""
        self.last_action = 0
        self.env.reset()

    def act(self, action: int) -> tuple[float, bool]:
        """Reward and end of one step; `action` is one of the package's six."""
        if self.random.rand() >= STICKY:
            self.last_action = action
        return self.env.act(self.last_action)


@lru_cache(maxsize=len(GAMES))
def game_module(name: str) -> ModuleType:
    """The package's file of a game, without the package's drawing libraries."""
    if name not in GAMES:
        raise unknown("MinAtar game", name, GAMES)
    require("minatar", "minatar")
    package = find_spec("minatar")
    assert package is not None
    path = Path((package.submodule_search_locations or [""])[0]) / "environments" / f"{name}.py"
    spec = spec_from_file_location(f"minatar_{name}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"expected the game {path}, found none: install MinAtar again")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class MinAtar(gymnasium.Env):
    """A game as this suite's tasks see it.

    Args:
        name: one of `GAMES`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, name: str) -> None:
        self.game = Game(name)
        self.instruction = instruction(name)
        self.observation_space = OBSERVATION_SPACE
        self.action_space = spaces.Discrete(len(GAMES[name][1]))
        self._actions = GAMES[name][1]
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Begin a game."""
        super().reset(seed=seed)
        if seed is None:
            self.game.begin()
        else:
            self.game.seed(seed)
        self._steps = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        """Act, unless the last action sticks."""
        reward, terminated = self.game.act(self._actions[int(action)])
        self._steps += 1
        return self._seen(), float(reward), bool(terminated), self._steps >= MAX_STEPS, {}

    def render(self) -> np.ndarray:
        """The cells in colour, (80, 80, 3) uint8."""
        return draw(self.game.env.state())

    def _seen(self) -> dict[str, Any]:
        return {"instruction": self.instruction, "image": picture(self.game.env.state())}


def picture(state: np.ndarray) -> np.ndarray:
    """A state as an image from which every channel can be read off.

    Channel c is bit c // 4 of plane c % 4; a plane's highest number is shown as 255. Cells are 3 pixels wide,
    in the upper left of a black image.

    Args:
        state: (10, 10, C) bool.

    Returns:
        (32, 32, 4) uint8.

    >>> state = np.zeros((10, 10, 6), bool)
    >>> state[0, 0, [1, 5]] = True
    >>> picture(state)[0, 0].tolist()
    [0, 255, 0, 0]
    """
    bits = -(-state.shape[-1] // PLANES)
    full = np.zeros((CELLS, CELLS, bits * PLANES), np.int64)
    full[..., : state.shape[-1]] = state
    levels = np.left_shift(1, np.arange(bits)) @ full.reshape(CELLS, CELLS, bits, PLANES)
    shown = (levels * 255 // (2**bits - 1)).astype(np.uint8)
    image = np.zeros((SIZE, SIZE, PLANES), np.uint8)
    image[: CELLS * SCALE, : CELLS * SCALE] = shown.repeat(SCALE, 0).repeat(SCALE, 1)
    return image


def draw(state: np.ndarray, cell: int = 8) -> np.ndarray:
    """A state as people see it: each cell in the colour of its last channel that is on.

    >>> draw(np.zeros((10, 10, 4), bool)).max()
    np.uint8(0)
    """
    channels = state.shape[-1]
    hue = np.arange(channels)[:, None] / channels + np.array([0.0, 1 / 3, 2 / 3])
    colours = np.vstack([np.zeros(3), 155 + 100 * np.cos(2 * np.pi * hue)]).clip(0, 255).astype(np.uint8)
    top = (state * np.arange(1, channels + 1)).max(-1)
    return colours[top].repeat(cell, 0).repeat(cell, 1)


def instruction(name: str) -> str:
    """What the agent is told.

    >>> instruction("space_invaders")
    'play small space invaders'
    """
    return f"play small {name.replace('_', ' ')}"


def _task(name: str) -> Task:
    game = name.partition("/")[2]
    if game not in GAMES:
        raise unknown("task", name, SUITE.names)
    return Task(
        name=name,
        make=partial(MinAtar, game),
        observation_space=OBSERVATION_SPACE,
        action_space=spaces.Discrete(len(GAMES[game][1])),
        instruction=instruction(game),
        body=name,
        measure="return",
        max_steps=MAX_STEPS,
        random=reference(name, "random"),
        expert=reference(name, "expert"),
    )


SUITE = Suite(
    name="minatar",
    title="MinAtar: five small games on 10 x 10 cells",
    names=tuple(f"minatar/{game}" for game in GAMES),
    task=_task,
    requires=("minatar",),
    extra="minatar",
)

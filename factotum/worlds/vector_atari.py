"""Atari games side by side in ale-py's own vector environment, as deep Q-learning sees them.

Conventions, which scores depend on: grey 84 x 84 pictures, the last four stacked, newest last, (4, 84, 84) uint8;
4 frames an action, the pixel-wise maximum of the last two; no sticky actions; the minimal action set; rewards
as the game pays them, NOT clipped; an episode is a whole game (all lives), at most 108,000 frames (27,000
actions); up to 30 no-ops to start with, as the seed draws; where the game knows FIRE it is pressed once at the
start of an episode. The stack begins an episode black but for its newest picture.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError, unknown
from factotum.worlds.suites.common import require
from factotum.worlds.vector_base import (
    Transition,
    no_snapshot,
    require_actions,
    require_count,
    row_seeds,
)

SIZE, STACK, FRAME_SKIP = 84, 4, 4
MAX_FRAMES = 108_000
MOST_NO_OPS = 30

OBSERVATION_SPACE = spaces.Box(0, 255, (STACK, SIZE, SIZE), np.uint8)


class VectorAtari:
    """`count` environments of one game; see `VectorWorld`.

    Args:
        game: "Pong", "MsPacman": a name from `games()`.
        count: B.
        threads: CPU threads; 0 for as many as there are cores. The result does not depend on it.

    `lives` tells how many each row has left, (B,), since the last reset or step.

    Raises:
        UserError: ale-py is not installed, or has no such game.
    """

    newest: slice | None = slice(STACK - 1, STACK)

    def __init__(self, game: str, count: int, threads: int = 0) -> None:
        require_count(count)
        rom = _rom(game)
        from ale_py.vector_env import AtariVectorEnv

        self._env = AtariVectorEnv(
            rom,
            count,
            num_threads=threads,
            max_num_frames_per_episode=MAX_FRAMES,
            repeat_action_probability=0.0,
            full_action_space=False,
            autoreset_mode="NextStep",
            img_height=SIZE,
            img_width=SIZE,
            grayscale=True,
            stack_num=STACK,
            frameskip=FRAME_SKIP,
            maxpool=True,
            noop_max=MOST_NO_OPS,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=True,
        )
        self.name, self.count = f"atari/{game}", count
        self.observation_space: spaces.Box = OBSERVATION_SPACE
        actions = len(self._env.ale.get_action_set())
        self.action_space: spaces.Discrete | spaces.Box = spaces.Discrete(actions)
        self._over: np.ndarray | None = None

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode in every row."""
        observation, info = self._env.reset(seed=np.array(row_seeds(seed, self.count)))
        self.lives = info["lives"].copy()
        self._over = np.zeros(self.count, bool)
        return observation

    def step(self, action: np.ndarray) -> Transition:
        """Act in every row; rows whose episode was over begin the next one."""
        actions = require_actions(self.action_space, action, self.count)
        if self._over is None:
            raise UserError(f"{self.name}: expected a reset before the first step")
        observation, reward, terminated, truncated, info = self._env.step(actions)
        self.lives = info["lives"].copy()
        begun, self._over = self._over, terminated | truncated
        return Transition(observation, reward.astype(np.float32), terminated, truncated, begun)

    def snapshot(self) -> None:
        """None: ale-py's vector environment cannot tell where its games stand."""

    def restore(self, snapshot: dict[str, Any]) -> np.ndarray:
        """Refused; see `snapshot`."""
        raise no_snapshot(self.name)

    def close(self) -> None:
        """Let ale-py's threads go."""
        vars(self).pop("_env", None)


def games() -> tuple[str, ...]:
    """All games that ale-py brings, in its order: "Adventure", "AirRaid", ..."""
    return tuple(_roms())


@lru_cache(maxsize=1)
def _roms() -> dict[str, str]:
    """Names as in "ALE/MsPacman-v5" with the names of their ROMs, "ms_pacman"."""
    require("ale_py", "atari")
    from ale_py import roms

    return {"".join(part.capitalize() for part in rom.split("_")): rom for rom in roms.get_all_rom_ids()}


def _rom(game: str) -> str:
    roms = _roms()
    if game not in roms:
        raise unknown("Atari game", game, roms)
    from ale_py.roms import get_rom_path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = get_rom_path(roms[game])
    if path is None or not Path(path).is_file():
        raise UserError(
            f"the ROM of {game} is missing ({path}): install ale-py again, its wheel brings all ROMs"
        )
    return roms[game]

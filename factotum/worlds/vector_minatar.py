"""MinAtar's games side by side: (C, 10, 10) bool observations; conventions in `suites/minatar.py`.

Freeway ends when its clock of 2,500 steps has run out, which cannot be seen: that is a time limit, so its episodes
are truncated, never terminated. (To a learner of values an end for good after any step is noise, and as rows
played side by side meet it at once it made the policy collapse: docs/distill.md.)
Plays in the calling thread. A snapshot holds the games whole, random numbers included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.worlds.suites.minatar import CELLS, GAMES, MAX_STEPS, Game
from factotum.worlds.vector_base import Transition, require_actions, require_count, row_seeds

CLOCKED = {"freeway"}
"""Games that end by a clock alone."""

CONSTANT = {"channels", "action_map", "random"}
"""Attributes of a game that a snapshot leaves out."""


def observation_space(game: str) -> spaces.Box:
    """Planes of cells.

    >>> observation_space("breakout").shape
    (4, 10, 10)
    """
    return spaces.Box(0, 1, (GAMES[game][0], CELLS, CELLS), bool)  # type: ignore[arg-type]


class VectorMinAtar:
    """`count` environments of one game; see `VectorWorld`.

    Args:
        game: one of `suites.minatar.GAMES`.
        count: B.
    """

    newest: slice | None = None

    def __init__(self, game: str, count: int) -> None:
        require_count(count)
        self._games = [Game(game) for _ in range(count)]
        minimal = GAMES[game][1]
        self.name, self.count = f"minatar/{game}", count
        self.observation_space: spaces.Box = observation_space(game)
        self.action_space: spaces.Discrete | spaces.Box = spaces.Discrete(len(minimal))
        self._minimal, self._clocked = np.array(minimal), game in CLOCKED
        self._steps: np.ndarray | None = None
        self._over = np.zeros(count, bool)

    def reset(self, seed: int) -> np.ndarray:
        """Begin an episode in every row."""
        for game, own in zip(self._games, row_seeds(seed, self.count), strict=True):
            game.seed(own)
        self._steps = np.zeros(self.count, np.int64)
        self._over = np.zeros(self.count, bool)
        return self._observe()

    def step(self, action: np.ndarray) -> Transition:
        """Act in every row; rows whose episode was over begin the next one."""
        actions = self._minimal[require_actions(self.action_space, action, self.count)].tolist()
        if self._steps is None:
            raise UserError(f"{self.name}: expected a reset before the first step")
        begun = self._over
        reward, ended = [0.0] * self.count, [False] * self.count
        for row, (game, new) in enumerate(zip(self._games, begun.tolist(), strict=True)):
            if new:
                game.begin()
            else:
                reward[row], ended[row] = game.act(actions[row])
        self._steps = np.where(begun, 0, self._steps + 1)
        terminated = np.array(ended, bool)
        self._over = terminated | (self._steps >= MAX_STEPS)
        truncated = self._over & (~terminated | self._clocked)
        terminated &= ~truncated
        return Transition(self._observe(), np.array(reward, np.float32), terminated, truncated, begun)

    def _observe(self) -> np.ndarray:
        states = np.concatenate([game.env.state() for game in self._games])
        states_BHWC = states.reshape(self.count, CELLS, CELLS, -1)
        return np.ascontiguousarray(states_BHWC.transpose(0, 3, 1, 2))

    def snapshot(self) -> dict[str, Any]:
        """Where all games stand, as JSON values."""
        if self._steps is None:
            raise UserError(f"{self.name}: expected a reset before a snapshot")
        return {
            "name": self.name,
            "games": [_describe(game) for game in self._games],
            "steps": self._steps.tolist(),
            "over": self._over.tolist(),
        }

    def restore(self, snapshot: dict[str, Any]) -> np.ndarray:
        """Take up where a snapshot of the same game and count was made."""
        name, games = snapshot["name"], snapshot["games"]
        if (name, len(games)) != (self.name, self.count):
            raise UserError(f"expected {self.count} games of {self.name}, got {len(games)} of {name}")
        for game, description in zip(self._games, games, strict=True):
            _take_up(game, description)
        self._steps = np.array(snapshot["steps"], np.int64)
        self._over = np.array(snapshot["over"], bool)
        return self._observe()

    def close(self) -> None:
        """Nothing to free."""


def _describe(game: Game) -> dict[str, Any]:
    _, keys, position, *_ = game.random.get_state(legacy=True)
    return {
        "random": [np.asarray(keys).tolist(), int(position)],
        "last_action": game.last_action,
        "env": {key: _plain(value) for key, value in vars(game.env).items() if key not in CONSTANT},
    }


def _take_up(game: Game, description: dict[str, Any]) -> None:
    keys, position = description["random"]
    game.random.set_state(("MT19937", np.array(keys, np.uint32), position, 0, 0.0))
    game.last_action = description["last_action"]
    for key, value in description["env"].items():
        array = isinstance(getattr(game.env, key), np.ndarray)
        setattr(game.env, key, np.array(value, np.float64) if array else _plain(value))


def _plain(value: Any) -> Any:
    """JSON values for what a game keeps: numbers, arrays, lists of lists."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

"""Whole games in environments side by side: unclipped scores, the same starts for everyone who plays.

Episodes come in rounds: all environments are reset with the round's seed and play one game each, so episode i starts
from a seed that depends on i, the number of environments and the evaluation's seed alone, not on who plays or how long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError, require_finite
from factotum.training.evaluate import evaluation_seeds
from factotum.training.progress import Progress
from factotum.worlds.vector import VectorWorld

LONGEST = 27_000
"""Steps of a game at most: the paper's 30 minutes, 108,000 frames of Atari."""


class VectorAgent(Protocol):
    """Acts in all environments at once; a `core.step.Core` whose inputs are (observations, first)."""

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first step of so many rows."""

    def step(self, inputs: tuple[Any, Any], state: Any) -> tuple[Any, Any]:
        """Actions for observations (B, ...); `first[b]` is true where row b begins an episode."""


Watch = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], None]
"""`watch(observation, first, action, playing)`: called before each step, arrays of one row an environment: what is
seen, whether an episode begins there, what is done, and whether the row's game still counts."""


def play_episodes(
    world: VectorWorld,
    agent: VectorAgent,
    episodes: int,
    seed: int = 0,
    *,
    longest: int = LONGEST,
    watch: Watch | None = None,
    bar: Progress | None = None,
) -> np.ndarray:
    """The scores of so many whole games, (episodes,): sums of rewards as the game pays them.

    Args:
        world: environments side by side; they are reset, so a game in progress ends.
        agent: acts in them.
        episodes: how many games.
        seed: which block of evaluation seeds (0 to 999); training never sees these.
        longest: steps after which a game ends, with the score it has.
        watch: sees observations and actions.
        bar: advanced by every finished game.

    Raises:
        UserError: a number of episodes that is not positive, or rewards that are not finite.
    """
    starts = evaluation_seeds(episodes, seed)
    scores: list[float] = []
    for start in starts[:: world.count]:
        wanted = min(world.count, episodes - len(scores))
        scores += list(_round(world, agent, start, wanted, longest, watch, bar))
    return np.array(scores)


def _round(
    world: VectorWorld,
    agent: VectorAgent,
    seed: int,
    wanted: int,
    longest: int,
    watch: Watch | None,
    bar: Progress | None,
) -> np.ndarray:
    """One game in each of the first `wanted` environments."""
    observation, state = world.reset(seed), agent.initial_state(world.count)
    first = np.ones(world.count, bool)
    score, playing = np.zeros(world.count), np.arange(world.count) < wanted
    for _ in range(longest):
        action, state = agent.step((observation, first), state)
        if watch is not None:
            watch(observation, first, np.asarray(action), playing)
        seen = world.step(np.asarray(action))
        require_finite(f"{world.name}: rewards", seen.reward)
        score += np.where(playing, seen.reward, 0.0)
        ended = playing & (seen.terminated | seen.truncated)
        playing, observation, first = playing & ~ended, seen.observation, seen.begun
        if bar is not None:
            bar.advance(int(ended.sum()))
        if not playing.any():
            break
    if bar is not None:
        bar.advance(int(playing.sum()))
    return score[:wanted]


class RandomPlayer:
    """Legal actions, all equally likely: what score 0 of a normalised score is.

    Args:
        world: whose actions.
        seed: of them.

    Raises:
        UserError: actions that are neither numbered nor bounded.
    """

    def __init__(self, world: VectorWorld, seed: int = 0) -> None:
        space = world.action_space
        if isinstance(space, spaces.Box) and not np.isfinite([space.low, space.high]).all():
            raise UserError(f"{world.name}: expected bounded actions to draw from, got {space}")
        self.space, self.generator = space, np.random.default_rng(seed)

    def initial_state(self, batch_size: int) -> int:
        """The number of rows."""
        return batch_size

    def step(self, inputs: tuple[Any, Any], state: int) -> tuple[np.ndarray, int]:
        """Actions whatever is seen."""
        if isinstance(self.space, spaces.Discrete):
            return self.generator.integers(self.space.n, size=state), state
        low, high = self.space.low, self.space.high
        return self.generator.uniform(low, high, (state, *low.shape)).astype(self.space.dtype), state

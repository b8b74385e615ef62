"""Agents to compare with: random actions, and the expert that made the demonstrations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.seeding import derive_seed, numpy_generator
from factotum.training.evaluate import GIVE_UP, EpisodeResult, evaluate


class RandomAgent:
    """Uniformly random legal actions; the n-th episode it begins depends on (seed, n) alone.

    Args:
        action_space: what to draw from.
        seed: of the draws.
        answers: for Text actions: the answers of the demonstrations, one of which is drawn
            each time; random words without them.

    >>> agent = RandomAgent(spaces.Discrete(3), seed=0)
    >>> actions, _ = agent.step(([None, None], [True, True]), agent.initial_state(2))
    >>> all(action in spaces.Discrete(3) for action in actions)
    True
    """

    def __init__(self, action_space: spaces.Space, seed: int = 0, answers: Sequence[str] = ()) -> None:
        self.action_space, self.seed, self.answers = action_space, seed, list(answers)

    def initial_state(self, batch_size: int) -> dict[str, Any]:
        """No episode begun; one source of actions a row."""
        return {"begun": 0, "draws": [None] * batch_size}

    def step(self, inputs: tuple[list[Any], list[bool]], state: dict[str, Any]) -> tuple[list[Any], Any]:
        """A random action for each row."""
        begun, draws = state["begun"], list(state["draws"])
        for row, first in enumerate(inputs[1]):
            if first:
                draws[row] = self._source(begun)
                begun += 1
        return [draw() for draw in draws], {"begun": begun, "draws": draws}

    def _source(self, episode: int) -> Callable[[], Any]:
        if isinstance(self.action_space, spaces.Text):
            text_space, generator = self.action_space, numpy_generator(self.seed, "random agent", episode)
            return lambda: self._text(text_space, generator)
        space = copy.deepcopy(self.action_space)
        space.seed(derive_seed(self.seed, "random agent", episode))
        return space.sample

    def _text(self, space: spaces.Text, generator: np.random.Generator) -> str:
        if self.answers:
            return self.answers[generator.integers(len(self.answers))]
        letters = sorted(set(space.character_set) - set(" \t\n\r\v\f"))
        words = [
            "".join(generator.choice(letters, generator.integers(2, 8)))
            for _ in range(generator.integers(1, 5))
        ]
        text = (" " if " " in space.character_set else "").join(words)
        return text[: space.max_length].ljust(space.min_length, letters[0])


class ExpertAgent:
    """The demonstrations' expert behind the agent protocol: one environment, which it may read.

    Args:
        env: the environment that is played.
        make_expert: `make_expert(env)` right after a reset gives that episode's
            `expert(observation, last_action)`.
        failure: what the expert raises when it gives up.
    """

    def __init__(self, env: Any, make_expert: Callable[[Any], Any], failure: type[Exception]) -> None:
        self.env, self.make_expert, self.failure = env, make_expert, failure

    def initial_state(self, batch_size: int) -> tuple[Any, Any]:
        """No expert yet and no last action."""
        if batch_size != 1:
            raise UserError(f"an expert plays one environment at a time, got a batch of {batch_size}")
        return None, None

    def step(self, inputs: tuple[list[Any], list[bool]], state: tuple[Any, Any]) -> tuple[list[Any], Any]:
        """The expert's action, or `GIVE_UP`."""
        (observation,), (first,) = inputs
        expert, last = state
        try:
            if first:
                expert, last = self.make_expert(self.env), None
            action = expert(observation, last)
        except self.failure:
            action = GIVE_UP
        return [action], (expert, action)


def evaluate_expert(
    make_env: Callable[[], Any],
    make_expert: Callable[[Any], Callable[[Any, Any], Any]],
    *,
    failure: type[Exception],
    seeds: Sequence[int],
    **options: Any,
) -> list[EpisodeResult]:
    """`evaluate` for an expert that reads the environment itself, on the same seeds.

    An expert plays one environment at a time (there is no batch to gain from).

    Args:
        make_env: builds one environment.
        make_expert: `make_expert(env)` right after a reset gives the `expert(observation, last_action)`
            of that episode.
        failure: what an expert raises when it gives up; the episode is marked as failed.
        seeds: one episode each.
        options: as for `evaluate`.
    """
    env = make_env()
    agent = ExpertAgent(env, make_expert, failure)
    return evaluate(lambda: env, agent, seeds=seeds, **{**options, "batch_size": 1})

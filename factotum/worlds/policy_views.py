"""What a policy that learnt in a world of many environments sees in a single environment of a suite.

The worlds of `vector.make_vector` show their policies arrays, the tasks of the suites show a generalist dicts of other
sizes. Here a policy looks at one such environment, so that it can act there, or say what it would do (DAgger).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.worlds import vector_atari, vector_minatar
from factotum.worlds.suites import atari
from factotum.worlds.suites.task import Env, Task
from factotum.worlds.vector_arrays import array_space
from factotum.worlds.vector_atari import SIZE, STACK

View = Callable[[Any, Any], np.ndarray]
"""`view(observation, last_action)`: what a policy sees after this step, without a batch axis."""


def view_space(task: Task) -> spaces.Box:
    """What a policy for the task sees.

    Raises:
        UserError: a task whose observations no policy takes.

    >>> from factotum.worlds.suites import registry
    >>> view_space(registry.task("atari/Pong")).shape, view_space(registry.task("minatar/breakout")).shape
    ((4, 84, 84), (4, 10, 10))
    """
    family, _, game = task.name.partition("/")
    if family == "atari":
        return vector_atari.OBSERVATION_SPACE
    if family == "minatar":
        return vector_minatar.observation_space(game)
    return array_space(task)[0]


def policy_view(task: Task, env: Env) -> View:
    """The eyes of a policy in one environment of a task.

    Raises:
        UserError: a task whose observations no policy takes, or an environment that is not the task's.
    """
    family = task.name.partition("/")[0]
    if family == "atari":
        screens = _found(env, "screens", task)
        return lambda observation, last_action: stacked(screens)
    if family == "minatar":
        game = _found(env, "game", task)
        return lambda observation, last_action: game.env.state().transpose(2, 0, 1)
    return array_space(task)[1]()


def stacked(screens: Iterable[np.ndarray]) -> np.ndarray:
    """The newest screens as `VectorAtari` shows them: newest last, black before an episode's beginning.

    Args:
        screens: up to four, (H, W) uint8.

    >>> stacked([np.full((210, 160), 7, np.uint8)])[:, 0, 0].tolist()
    [0, 0, 0, 7]
    """
    small = [atari.shrink(screen, SIZE) for screen in screens]
    black = [np.zeros((SIZE, SIZE), np.uint8)] * (STACK - len(small))
    return np.stack([*black, *small])


def _found(env: Env, name: str, task: Task) -> Any:
    if not env.has_wrapper_attr(name):
        raise UserError(f"expected an environment of {task.name}, got {env}")
    return env.get_wrapper_attr(name)

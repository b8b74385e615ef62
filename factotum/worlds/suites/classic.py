"""Gymnasium's small problems: toy text and classic control, with exact or simple experts.

They need no package beyond gymnasium (pygame to draw pictures). Sources: Sutton and Barto,
"Reinforcement Learning" (2018), examples 5.1, 6.6 and 10.1; Dietterich (2000), arXiv cs/9905014
(taxi); Barto, Sutton and Anderson (1983) (cart and pole).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.worlds.suites import classic_experts as experts
from factotum.worlds.suites.common import (
    Instructed,
    reference,
    render_offscreen,
    state_entry,
    state_space,
    with_instruction,
)
from factotum.worlds.suites.task import Expert, Suite, Task


@dataclass(frozen=True)
class Problem:
    """One environment of gymnasium: where it is registered, how it is seen and solved.

    Args:
        id: its registered name.
        instruction: what to do, in words.
        max_steps: the time limit it is made with.
        actions: its action space.
        entries: spaces of the observation beside the instruction.
        see: gymnasium's observation -> those entries.
        make_expert: see `Task`.
        options: further arguments to `gymnasium.make`.
    """

    id: str
    instruction: str
    max_steps: int
    actions: spaces.Space
    entries: dict[str, Any]
    see: Callable[[Any], dict[str, Any]]
    make_expert: Callable[[gymnasium.Env], Expert]
    options: dict[str, Any] = field(default_factory=dict)


def _digits(names: tuple[str, ...], sizes: tuple[int, ...], state: Any) -> dict[str, np.int64]:
    """The parts of a state number, most significant first."""
    parts = np.unravel_index(int(state), sizes)
    return {name: np.int64(part) for name, part in zip(names, parts, strict=True)}


def _hand(observation: tuple[int, int, int]) -> dict[str, np.int64]:
    """Blackjack's observation by name."""
    return dict(zip(("player", "dealer", "usable_ace"), map(np.int64, observation), strict=True))


def _planned(env: gymnasium.Env) -> Expert:
    """The best action of each state of a toy-text environment, from its own transition table."""
    bare = env.unwrapped
    assert bare.spec is not None
    plan = _plan(bare.spec.id, tuple(sorted(bare.spec.kwargs.items())))
    return lambda observation, last_action: np.int64(plan[bare.s])  # type: ignore[attr-defined]


@cache
def _plan(environment_id: str, options: tuple[tuple[str, Any], ...]) -> np.ndarray:
    env = gymnasium.make(environment_id, **dict(options))
    return experts.value_iteration(env.unwrapped.P)  # type: ignore[attr-defined]


def _discrete(control: Callable[[np.ndarray], int], env: gymnasium.Env) -> Expert:
    return lambda observation, last_action: np.int64(control(observation["state"]))


def _continuous(control: Callable[[np.ndarray], np.ndarray], env: gymnasium.Env) -> Expert:
    return lambda observation, last_action: control(observation["state"])


def _mountain_car(env: gymnasium.Env) -> Expert:
    return _discrete(experts.mountain_car_policy(), env)


def _blackjack(env: gymnasium.Env) -> Expert:
    def act(observation: Any, last_action: Any) -> np.int64:
        seen = (int(observation["player"]), int(observation["dealer"]), bool(observation["usable_ace"]))
        return np.int64(experts.blackjack_action(*seen))

    return act


def _grid_world(
    environment_id: str, instruction: str, max_steps: int, actions: int, sizes: dict[str, int], **options: Any
) -> Problem:
    """A toy-text problem whose state number is taken apart into named digits."""
    return Problem(
        id=environment_id,
        instruction=instruction,
        max_steps=max_steps,
        actions=spaces.Discrete(actions),
        entries={name: spaces.Discrete(size) for name, size in sizes.items()},
        see=partial(_digits, tuple(sizes), tuple(sizes.values())),
        make_expert=_planned,
        options=options,
    )


def _vector(
    environment_id: str, instruction: str, max_steps: int, actions: spaces.Space, size: int, expert: Any
) -> Problem:
    return Problem(
        environment_id, instruction, max_steps, actions, {"state": state_space(size)}, state_entry, expert
    )


_LAKE = "cross the frozen lake to the goal without falling into a hole"
_FIRM = "cross the lake, whose ice is not slippery, to the goal without falling into a hole"

PROBLEMS = {
    "FrozenLake": _grid_world("FrozenLake-v1", _LAKE, 100, 4, {"row": 4, "column": 4}),
    "FrozenLakeFirm": _grid_world("FrozenLake-v1", _FIRM, 100, 4, {"row": 4, "column": 4}, is_slippery=False),
    "FrozenLake8x8": _grid_world("FrozenLake8x8-v1", _LAKE, 200, 4, {"row": 8, "column": 8}),
    "FrozenLake8x8Firm": _grid_world(
        "FrozenLake8x8-v1", _FIRM, 200, 4, {"row": 8, "column": 8}, is_slippery=False
    ),
    "Taxi": _grid_world(
        "Taxi-v4",
        "pick the passenger up and drive to the destination",
        200,
        6,
        {"row": 5, "column": 5, "passenger": 5, "destination": 4},
    ),
    "CliffWalking": _grid_world(
        "CliffWalking-v1",
        "walk to the goal along the cliff without stepping off",
        200,
        4,
        {"row": 4, "column": 12},
    ),
    "Blackjack": Problem(
        id="Blackjack-v1",
        instruction="draw cards or stop: come closer to 21 than the dealer",
        max_steps=21,
        actions=spaces.Discrete(2),
        entries={
            "player": spaces.Discrete(32),
            "dealer": spaces.Discrete(11),
            "usable_ace": spaces.Discrete(2),
        },
        see=_hand,
        make_expert=_blackjack,
        options={"sab": True},
    ),
    "CartPole": _vector(
        "CartPole-v1",
        "balance the pole on the cart",
        500,
        spaces.Discrete(2),
        4,
        partial(_discrete, experts.cart_pole),
    ),
    "MountainCar": _vector(
        "MountainCar-v0",
        "drive the car up the right hill by swinging",
        200,
        spaces.Discrete(3),
        2,
        _mountain_car,
    ),
    "MountainCarContinuous": _vector(
        "MountainCarContinuous-v0",
        "drive the car up the right hill by swinging, with little force",
        999,
        spaces.Box(-1.0, 1.0, (1,), np.float32),
        2,
        partial(_continuous, experts.mountain_car_continuous),
    ),
    "Pendulum": _vector(
        "Pendulum-v1",
        "swing the pendulum up and hold it there",
        200,
        spaces.Box(-2.0, 2.0, (1,), np.float32),
        3,
        partial(_continuous, experts.pendulum),
    ),
    "Acrobot": _vector(
        "Acrobot-v1",
        "swing the end of the two links above the line",
        500,
        spaces.Discrete(3),
        6,
        partial(_discrete, experts.acrobot),
    ),
}


def make(name: str) -> gymnasium.Env:
    """A problem as Factotum's tasks see it.

    >>> observation, _ = make("CliffWalking").reset(seed=0)
    >>> int(observation["row"]), int(observation["column"])
    (3, 0)
    """
    problem = PROBLEMS[name]
    render_offscreen()
    env = gymnasium.make(
        problem.id,
        render_mode="rgb_array",
        max_episode_steps=problem.max_steps,
        disable_env_checker=True,
        **problem.options,
    )
    return Instructed(env, problem.instruction, _observation_space(problem), problem.see)


def _observation_space(problem: Problem) -> spaces.Dict:
    return with_instruction(**problem.entries)


def task(name: str) -> Task:
    """The task of a full name.

    >>> task("gym/Taxi").max_steps
    200
    """
    short = name.partition("/")[2]
    problem = PROBLEMS[short]
    return Task(
        name=name,
        make=partial(make, short),
        observation_space=_observation_space(problem),
        action_space=problem.actions,
        instruction=problem.instruction,
        body=name,
        measure="return",
        max_steps=problem.max_steps,
        make_expert=problem.make_expert,
        random=reference(name, "random"),
        expert=reference(name, "expert"),
    )


SUITE = Suite(
    name="gym",
    title="Gymnasium: toy text and classic control",
    names=tuple(f"gym/{name}" for name in PROBLEMS),
    task=task,
)

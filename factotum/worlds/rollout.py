"""Plays one episode: who acts, who labels, what is recorded. Knows no environment by name."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
from gymnasium.spaces import Space

from factotum.core.seeding import derive_seed

Actor = Callable[[Any, Any], Any]
"""`actor(observation, last_action) -> action`, where last_action is what was really executed (None first)."""


@dataclass
class Trajectory:
    """One episode.

    Args:
        observations: T + 1 observations, the last one after the last action.
        actions: T actions: the labeller's where there is one, else those executed.
        rewards: T rewards of the executed actions.
        terminated: the environment ended the episode.
        truncated: a step limit ended it.
        success: `info["success"]` was ever true.
        seed: what the environment was reset with.
        score: 1.0 or 0.0 by `success`, or the total reward, as the task measures.
        total_reward: sum of the rewards.
    """

    observations: list[Any]
    actions: list[Any]
    rewards: list[float]
    terminated: bool
    truncated: bool
    success: bool
    seed: int
    score: float
    total_reward: float


def rollout(
    env: gymnasium.Env,
    *,
    seed: int,
    actor: Actor,
    labeller: Actor | None = None,
    max_steps: int,
    measure: Literal["return", "success"],
) -> Trajectory:
    """Play one episode from `env.reset(seed=seed)` to its end or to `max_steps`.

    With a labeller, the actor's actions are executed and the labeller's are stored: what DAgger
    trains on (Ross et al., 2011, arXiv 1011.0686, algorithm 3.1).

    Args:
        env: the environment.
        seed: start of the episode.
        actor: chooses what is executed.
        labeller: chooses what is recorded; by default what was executed.
        max_steps: the episode is cut here.
        measure: what the score is.

    Returns:
        The episode.

    Raises:
        ExpertFailure: the actor or the labeller gave up; the episode is to be discarded.

    >>> env = gymnasium.make("CartPole-v1")
    >>> episode = rollout(env, seed=0, actor=lambda observation, last: 0, max_steps=500, measure="return")
    >>> len(episode.observations) - len(episode.actions), episode.score == sum(episode.rewards)
    (1, True)
    """
    observation, _ = env.reset(seed=seed)
    observations, actions = [observation], []
    rewards: list[float] = []
    executed = None
    terminated = truncated = success = False
    while not (terminated or truncated) and len(rewards) < max_steps:
        action = actor(observation, executed)
        actions.append(action if labeller is None else labeller(observation, executed))
        observation, reward, terminated, truncated, info = env.step(action)
        executed = action
        observations.append(observation)
        rewards.append(float(reward))
        success = success or bool(info.get("success", False))
    total = sum(rewards)
    return Trajectory(
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminated=bool(terminated),
        truncated=bool(truncated) or not terminated,
        success=success,
        seed=seed,
        score=float(success) if measure == "success" else total,
        total_reward=total,
    )


def expert_actor(env: gymnasium.Env, make_expert: Callable[[gymnasium.Env], Actor]) -> Actor:
    """An actor that makes a new expert at the first step of each episode, when `last_action` is None.

    Experts look at the episode that has begun, so they cannot be made before the reset.
    """
    current: Actor | None = None

    def act(observation: Any, last_action: Any) -> Any:
        nonlocal current
        if current is None or last_action is None:
            current = make_expert(env)
        return current(observation, last_action)

    return act


def random_actor(action_space: Space, seed: int) -> Actor:
    """An actor that draws actions uniformly.

    >>> random_actor(gymnasium.spaces.Discrete(1), seed=0)(None, None)
    np.int64(0)
    """
    space = deepcopy(action_space)  # seeding it must leave the declared space alone
    space.seed(
        derive_seed("random actor", seed) % 2**32
    )  # not the stream an environment of that seed draws from
    return lambda observation, last_action: space.sample()

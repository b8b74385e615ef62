"""Plays one episode: who acts, who labels, what is recorded. Knows no environment by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
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
    episode = _Recording(env, seed, max_steps)
    while not episode.ended:
        action = actor(episode.observation, episode.executed)
        episode.step(action, action if labeller is None else labeller(episode.observation, episode.executed))
    return episode.trajectory(measure)


def rollouts(
    envs: Sequence[gymnasium.Env],
    *,
    seeds: Sequence[int],
    act: Callable[[list[Any], list[bool]], Sequence[Any]],
    labellers: Sequence[Actor],
    max_steps: int,
    measure: Literal["return", "success"],
    guard: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Trajectory | Exception]:
    """Play one episode in each environment, side by side: one question to the actor for all of them.

    Args:
        envs: environments of one task.
        seeds: start of each one's episode.
        act: (observations, which rows begin) -> actions; a row whose episode has ended is asked about still, so that
            the batch keeps its size, and not heard.
        labellers: what is recorded, one for each environment, as for `rollout`.
        max_steps: episodes are cut here.
        measure: what the score is.
        guard: entered around what an environment or a labeller does, for example with a limit of time.

    Returns:
        Episodes in the order of `seeds`; what was raised in place of one that its environment or labeller failed.

    >>> env, left = gymnasium.make("CartPole-v1"), lambda observation, last: 0
    >>> [episode] = rollouts([env], seeds=[0], act=lambda seen, first: [0] * len(seen), labellers=[left],
    ...                      max_steps=500, measure="return")
    >>> episode.rewards == rollout(env, seed=0, actor=left, max_steps=500, measure="return").rewards
    True
    """
    rows = [_Row(env, seed, max_steps, guard) for env, seed in zip(envs, seeds, strict=True)]
    # A row that could not even begin has nothing to ask about.
    asked = [
        (row, labeller) for row, labeller in zip(rows, labellers, strict=True) if row.episode is not None
    ]
    first = True
    while any(row.active for row in rows):
        actions = act([row.episode.observation for row, _ in asked], [first] * len(asked))  # type: ignore[union-attr]
        for (row, labeller), action in zip(asked, actions, strict=True):
            if row.active:
                row.step(action, labeller)
        first = False
    return [row.result(measure) for row in rows]


class _Recording:
    """One episode as it is played."""

    def __init__(self, env: gymnasium.Env, seed: int, max_steps: int) -> None:
        self.env, self.seed, self.max_steps = env, seed, max_steps
        self.observation, _ = env.reset(seed=seed)
        self.observations, self.actions = [self.observation], list[Any]()
        self.rewards: list[float] = []
        self.executed: Any = None
        self.terminated = self.truncated = self.success = False

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated or len(self.rewards) >= self.max_steps

    def step(self, action: Any, label: Any) -> None:
        self.actions.append(label)
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        self.terminated, self.truncated, self.executed = bool(terminated), bool(truncated), action
        self.observations.append(self.observation)
        self.rewards.append(float(reward))
        self.success = self.success or bool(info.get("success", False))

    def trajectory(self, measure: Literal["return", "success"]) -> Trajectory:
        total = sum(self.rewards)
        return Trajectory(
            observations=self.observations,
            actions=self.actions,
            rewards=self.rewards,
            terminated=self.terminated,
            truncated=self.truncated or not self.terminated,
            success=self.success,
            seed=self.seed,
            score=float(self.success) if measure == "success" else total,
            total_reward=total,
        )


class _Row:
    """One of several episodes side by side: what it raises ends it alone."""

    def __init__(
        self, env: gymnasium.Env, seed: int, max_steps: int, guard: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.guard = guard
        self.error: Exception | None = None
        self.episode: _Recording | None = None
        try:
            with guard():
                self.episode = _Recording(env, seed, max_steps)
        except Exception as error:
            self.error = error

    @property
    def active(self) -> bool:
        return self.error is None and self.episode is not None and not self.episode.ended

    def step(self, action: Any, labeller: Actor) -> None:
        assert self.episode is not None
        try:
            with self.guard():
                self.episode.step(action, labeller(self.episode.observation, self.episode.executed))
        except Exception as error:
            self.error = error

    def result(self, measure: Literal["return", "success"]) -> Trajectory | Exception:
        if self.error is not None:
            return self.error
        assert self.episode is not None
        return self.episode.trajectory(measure)


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

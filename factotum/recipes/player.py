"""Plays episodes in worker processes: who acts, who labels, what is discarded."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from factotum.core.checks import UserError
from factotum.core.seeding import derive_seed, numpy_generator
from factotum.data.episode import Episode, as_space_types
from factotum.data.packing import pack
from factotum.data.validate import episode_problems
from factotum.training.parts import Outcome
from factotum.worlds.rollout import Actor, expert_actor, random_actor, rollout
from factotum.worlds.suites import registry
from factotum.worlds.suites.common import silenced, time_limit
from factotum.worlds.suites.task import Env, ExpertFailure, Task


@dataclass(frozen=True)
class Player:
    """Plays chunks of seeds in a worker process; travels there by value.

    Args:
        task: full name.
        actor: expert, random or a checkpoint's folder.
        noise: share of random actions among the expert's.
        expert_share: share of episodes that the expert plays where a checkpoint acts.
        episode_seconds: an episode that takes longer is discarded.
        threshold: episodes that score less are not handed over; None hands over all.
    """

    task: str
    actor: str = "expert"
    noise: float = 0.0
    expert_share: float = 0.0
    episode_seconds: float = 300.0
    threshold: float | None = None

    def __call__(self, seeds: Sequence[int]) -> tuple[bytes, list[Outcome]]:
        """Packed episodes, and an outcome for each seed.

        Raises:
            UserError: the environment gave values outside of the task's spaces.
        """
        task = registry.task(self.task)
        episodes: list[Episode] = []
        outcomes = []
        for seed in seeds:
            outcome, episode = self._try(task, seed)
            outcomes.append(outcome)
            if episode is not None and self._passes(outcome.score):
                episodes.append(episode)
        return pack(episodes), outcomes

    def _passes(self, score: float | None) -> bool:
        return score is not None and (self.threshold is None or score >= self.threshold)

    def _try(self, task: Task, seed: int) -> tuple[Outcome, Episode | None]:
        """One episode, or why there is none: an expert that fails and an environment that crashes."""
        env = _environment(task)
        try:
            episode = self._play(task, env, seed)
        except ExpertFailure as failure:
            return Outcome(seed, None, " ".join(str(failure).split()) or "the expert failed"), None
        except UserError:
            raise
        except Exception as error:
            _forget_environment()
            return Outcome(seed, None, " ".join(f"{type(error).__name__}: {error}".split())), None
        problems = episode_problems(episode, task.observation_space, task.action_space)
        if problems:
            raise UserError(f"{task.name}, seed {seed}, {': '.join(problems[0])}")
        return Outcome(seed, episode.score), episode

    def _play(self, task: Task, env: Env, seed: int) -> Episode:
        actor, labeller = self._roles(task, env, seed)
        with time_limit(self.episode_seconds), silenced():
            played = rollout(
                env, seed=seed, actor=actor, labeller=labeller, max_steps=task.max_steps, measure=task.measure
            )
        episode = Episode.from_steps(
            played.observations,
            played.actions,
            played.rewards,
            played.terminated,
            played.truncated,
            seed,
            played.score,
        )
        episode.observations = as_space_types(task.observation_space, episode.observations)
        episode.actions = as_space_types(task.action_space, episode.actions)
        return episode

    def _roles(self, task: Task, env: Env, seed: int) -> tuple[Actor, Actor | None]:
        """Who acts and who labels in the episode of `seed`; None where the actor's own actions are stored."""
        if self.actor == "random":
            return random_actor(task.action_space, derive_seed("random actor", task.name, seed)), None
        assert task.make_expert is not None
        expert = expert_actor(env, task.make_expert)
        if self.actor == "expert":
            return _noisy(expert, task, seed, self.noise) if self.noise else (expert, None)
        if numpy_generator("expert share", task.name, seed).random() < self.expert_share:
            return expert, None
        return _agent_actor(self.actor, task), expert


def _noisy(expert: Actor, task: Task, seed: int, noise: float) -> tuple[Actor, Actor]:
    """The expert with random actions thrown in, and the labels it would have acted by."""
    generator = numpy_generator("noise", task.name, seed)
    random = random_actor(task.action_space, derive_seed("random actor", task.name, seed))
    label: Any = None

    def act(observation: Any, last_action: Any) -> Any:
        nonlocal label
        label = expert(observation, last_action)
        return random(observation, last_action) if generator.random() < noise else label

    # A rollout asks the actor first, so that an expert with a memory is asked once a step.
    return act, lambda observation, last_action: label


_worker = threading.local()
"""What a worker keeps from chunk to chunk: building an environment or loading a model takes seconds."""


def _environment(task: Task) -> Env:
    if getattr(_worker, "task", None) != task.name:
        _worker.task, _worker.env = task.name, task.make()
    return _worker.env


def _forget_environment() -> None:
    _worker.task = None


def _agent_actor(checkpoint: str, task: Task) -> Actor:
    """A trained agent as an actor: one row, whose state starts anew with each episode."""
    from factotum.gato import GatoAgent

    if getattr(_worker, "agent_of", None) != (checkpoint, task.name):
        _worker.agent_of = (checkpoint, task.name)
        _worker.agent = GatoAgent.from_checkpoint(
            checkpoint, task.name, task.observation_space, task.action_space
        )
    agent = _worker.agent
    state = agent.initial_state(1)

    def act(observation: Any, last_action: Any) -> Any:
        nonlocal state
        actions, state = agent.step(([observation], [last_action is None]), state)
        return actions[0]

    return act

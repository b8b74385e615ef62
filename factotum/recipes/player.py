"""Plays episodes in worker processes: who acts, who labels, what is discarded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from factotum.core.checks import UserError
from factotum.core.seeding import derive_seed, numpy_generator
from factotum.data.episode import Episode, as_space_types
from factotum.data.packing import pack
from factotum.data.validate import episode_problems
from factotum.recipes.policy_expert import task_of
from factotum.training.parts import Outcome
from factotum.worlds.paraphrase import Paraphrased, Split
from factotum.worlds.rollout import Actor, Trajectory, expert_actor, random_actor, rollout, rollouts
from factotum.worlds.suites.common import silenced, time_limit
from factotum.worlds.suites.task import Env, ExpertFailure, Task

TOGETHER = 8
"""Episodes that a trained agent plays at once: eight cost it little more than one."""


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
        words: in which instructions are said.
        longest: steps after which an episode is cut, where the task itself allows more.
        expert: a policy's folder, in place of the task's own expert.
    """

    task: str
    actor: str = "expert"
    noise: float = 0.0
    expert_share: float = 0.0
    episode_seconds: float = 300.0
    threshold: float | None = None
    words: Split = "plain"
    longest: int | None = None
    expert: str = ""

    def __call__(self, seeds: Sequence[int]) -> tuple[bytes, list[Outcome]]:
        """Packed episodes, and an outcome for each seed.

        Raises:
            UserError: the environment gave values outside of the task's spaces.
        """
        task = task_of(self.task, self.expert)
        played = self._play_all(task, seeds)
        outcomes, episodes = zip(*(self._outcome(task, seed, played[seed]) for seed in seeds), strict=True)
        return pack([episode for episode in episodes if episode is not None]), list(outcomes)

    def _play_all(self, task: Task, seeds: Sequence[int]) -> dict[int, Trajectory | Exception]:
        """What was played by seed; a trained agent plays several episodes at once, others one after the other."""
        by_agent = [seed for seed in seeds if self._agent_plays(task, seed)]
        played = {seed: self._try(task, seed) for seed in seeds if seed not in by_agent}
        for start in range(0, len(by_agent), TOGETHER):
            some = by_agent[start : start + TOGETHER]
            played |= dict(zip(some, self._play_together(task, some), strict=True))
        return played

    def _outcome(
        self, task: Task, seed: int, played: Trajectory | Exception
    ) -> tuple[Outcome, Episode | None]:
        """An episode that is to be kept, or why there is none: an expert that fails, an environment that crashes."""
        if isinstance(played, ExpertFailure):
            return Outcome(seed, None, " ".join(str(played).split()) or "the expert failed"), None
        if isinstance(played, UserError):
            raise played
        if isinstance(played, Exception):
            return Outcome(seed, None, " ".join(f"{type(played).__name__}: {played}".split())), None
        episode = _episode(task, played)
        problems = episode_problems(episode, task.observation_space, task.action_space)
        if problems:
            raise UserError(f"{task.name}, seed {seed}, {': '.join(problems[0])}")
        passes = self.threshold is None or played.score >= self.threshold
        return Outcome(seed, played.score), episode if passes else None

    def _steps(self, task: Task) -> int:
        return min(task.max_steps, self.longest or task.max_steps)

    def _try(self, task: Task, seed: int) -> Trajectory | Exception:
        """One episode, or what was raised in place of it."""
        (env,) = _environments(task, self.words, 1)
        actor, labeller = self._roles(task, env, seed)
        try:
            with time_limit(self.episode_seconds), silenced():
                return rollout(
                    env,
                    seed=seed,
                    actor=actor,
                    labeller=labeller,
                    max_steps=self._steps(task),
                    measure=task.measure,
                )
        except Exception as error:
            _forget_crashed([error])
            return error

    def _play_together(self, task: Task, seeds: Sequence[int]) -> list[Trajectory | Exception]:
        """The agent acts in all episodes by one question a step; the expert labels each."""
        assert task.make_expert is not None
        envs = _environments(task, self.words, len(seeds))
        with silenced():
            played = rollouts(
                envs,
                seeds=seeds,
                act=_agent_actor(self.actor, task),
                labellers=[expert_actor(env, task.make_expert) for env in envs],
                max_steps=self._steps(task),
                measure=task.measure,
                guard=partial(time_limit, self.episode_seconds),
            )
        _forget_crashed([one for one in played if isinstance(one, Exception)])
        return played

    def _agent_plays(self, task: Task, seed: int) -> bool:
        if self.actor in ("expert", "random"):
            return False
        return numpy_generator("expert share", task.name, seed).random() >= self.expert_share

    def _roles(self, task: Task, env: Env, seed: int) -> tuple[Actor, Actor | None]:
        """Who acts and who labels in the episode of `seed`; None where the actor's own actions are stored."""
        if self.actor == "random":
            return random_actor(task.action_space, derive_seed("random actor", task.name, seed)), None
        assert task.make_expert is not None
        expert = expert_actor(env, task.make_expert)
        return _noisy(expert, task, seed, self.noise) if self.noise else (expert, None)


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


def _environments(task: Task, words: Split, count: int) -> list[Env]:
    if getattr(_worker, "task", None) != (task.name, words):
        _worker.envs, _worker.task = [], (task.name, words)
    while len(_worker.envs) < count:
        env = task.make()
        _worker.envs.append(env if words == "plain" else Paraphrased(env, words))
    return _worker.envs[:count]


def _forget_crashed(errors: Sequence[Exception]) -> None:
    """An environment that raised is not played again; an expert that gave up has not harmed it."""
    if any(not isinstance(error, ExpertFailure) for error in errors):
        _worker.task = None


def _episode(task: Task, played: Trajectory) -> Episode:
    episode = Episode.from_steps(
        played.observations,
        played.actions,
        played.rewards,
        played.terminated,
        played.truncated,
        played.seed,
        played.score,
    )
    episode.observations = as_space_types(task.observation_space, episode.observations)
    episode.actions = as_space_types(task.action_space, episode.actions)
    return episode


def _agent_actor(checkpoint: str, task: Task) -> Callable[[list[Any], list[bool]], list[Any]]:
    """A trained agent as an actor of some episodes side by side, all of which begin anew."""
    from factotum.gato import GatoAgent

    if getattr(_worker, "agent_of", None) != (checkpoint, task.name):
        _worker.agent_of = (checkpoint, task.name)
        _worker.agent = GatoAgent.from_checkpoint(
            checkpoint, task.name, task.observation_space, task.action_space
        )
    agent, state = _worker.agent, None

    def act(observations: list[Any], first: list[bool]) -> list[Any]:
        nonlocal state
        if state is None:
            state = agent.initial_state(len(observations))
        actions, state = agent.step((observations, first), state)
        return actions

    return act

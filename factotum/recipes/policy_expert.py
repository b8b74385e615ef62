"""Trained policies as experts of tasks: they play in the suites' environments, or label what another does there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.distill.agent import PolicyAgent
from factotum.distill.model import PolicyNetwork
from factotum.distill.store import find_policy, load_policy
from factotum.worlds.policy_views import policy_view, view_space
from factotum.worlds.suites import registry
from factotum.worlds.suites.task import Env, Expert, Task


def task_of(name: str, expert: str = "") -> Task:
    """A task, with a policy of a folder as its expert where one is given.

    Raises:
        UserError: no such task, or a policy that is not for it.
    """
    task = registry.task(name)
    return with_policy(task, expert) if expert else task


def with_policy(task: Task, folder: Path | str) -> Task:
    """The task with a trained policy as its expert, whose score is not known yet.

    Args:
        task: of a suite.
        folder: of a policy, or of a run that ended with one (`factotum train-teacher`, `factotum distill`).

    Raises:
        UserError: no policy there, or one for other tasks, observations or actions.
    """
    network = _network(str(folder))
    if task.name not in network.tasks:
        raise UserError(
            f"expert: expected a policy for {task.name}, got one for {', '.join(network.tasks)} in {folder}"
        )
    wanted = view_space(task).shape, _numbers(task.action_space, network.config.outputs)
    found = tuple(network.config.observation_shape), network.config.actions[task.name]
    if wanted != found:
        raise UserError(
            f"expert: expected a policy for observations {wanted[0]} and {wanted[1]} outputs of {task.name}, got one "
            f"for {found[0]} and {found[1]} in {folder}"
        )
    return replace(task, make_expert=partial(_begin, str(folder), task), expert=None)


def policy_tasks(folders: Sequence[Path | str]) -> dict[str, str]:
    """Which task has which policy.

    Raises:
        UserError: no policy in a folder, or two for one task.
    """
    found: dict[str, str] = {}
    for folder in folders:
        for name in _network(str(folder)).tasks:
            if name in found:
                raise UserError(f"teachers: expected one policy for {name}, got {found[name]} and {folder}")
            found[name] = str(folder)
    return found


def _network(folder: str) -> PolicyNetwork:
    """A folder's policy, loaded once for each time that its weights were written."""
    found = find_policy(folder)
    return _loaded(folder, None if found is None else (found / "model.safetensors").stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _loaded(folder: str, _written: int | None) -> PolicyNetwork:
    return load_policy(folder)


def _begin(folder: str, task: Task, env: Env) -> Expert:
    """The expert of one episode: the policy's best action for what it sees."""
    box = task.action_space if isinstance(task.action_space, spaces.Box) else None
    agent = PolicyAgent(_network(folder), task.name, epsilon=0.0, action_space=box)
    view = policy_view(task, env)

    def act(observation: Any, last_action: Any) -> Any:
        return agent.act(view(observation, last_action)[None])[0]

    return act


def _numbers(space: spaces.Space, outputs: str) -> int:
    """How many numbers a policy puts out for an action."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(np.prod(space.shape)) * (2 if outputs == "gaussian" else 1)  # type: ignore[arg-type]

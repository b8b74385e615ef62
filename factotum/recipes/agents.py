"""Who plays: "random", "expert", "retrieve" or a checkpoint, made ready for any task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.data.store import Dataset, list_datasets, open_dataset
from factotum.training.baselines import RandomAgent, evaluate_expert
from factotum.training.checkpoint import latest_checkpoint
from factotum.training.evaluate import Agent, EpisodeResult, evaluate
from factotum.training.records import checkpoint_hash
from factotum.training.retrieve import RetrieveAgent
from factotum.worlds.suites.registry import suites
from factotum.worlds.suites.task import ExpertFailure, Task

Shown = Callable[[Task], list[Dataset]]
"""A task's demonstrations."""


@dataclass(frozen=True)
class AgentSpec:
    """An agent by name, made ready for a task when it is to play it.

    Args:
        label: for tables and records.
        make_agent: the agent for a task; None for the expert, which each task brings along.
        version: what exactly plays a task, so that scores of another are not taken for its own.
    """

    label: str
    make_agent: Callable[[Task], Agent] | None
    version: Callable[[Task], str] = lambda task: ""

    def can_play(self, task: Task) -> bool:
        """False for the expert of a task that has none."""
        return self.make_agent is not None or task.make_expert is not None

    def play(
        self,
        task: Task,
        *,
        seeds: Sequence[int],
        batch_size: int = 16,
        make: Callable[[], Any] | None = None,
        **options: Any,
    ) -> list[EpisodeResult]:
        """One episode a seed, as `training.evaluate.evaluate`.

        Args:
            task: what is played.
            seeds: one episode each.
            batch_size: environments side by side.
            make: builds the environment in place of `task.make`.
            options: `on_episode`, `watch`.
        """
        options |= {"max_steps": task.max_steps, "measure": task.measure, "name": task.name, "seeds": seeds}
        make = make or task.make
        if self.make_agent is not None:
            return evaluate(make, self.make_agent(task), batch_size=batch_size, **options)
        if task.make_expert is None:
            raise UserError(f"{task.name} has no expert")
        return evaluate_expert(make, task.make_expert, failure=ExpertFailure, **options)


def find_agent(
    who: str,
    *,
    data: Path,
    seed: int = 0,
    prompt_episodes: int = 0,
    temperature: float = 0.0,
    capacity: int = 50_000,
    label: str | None = None,
    datasets: Sequence[str] = ("*",),
) -> AgentSpec:
    """The agent of a name or a path.

    Args:
        who: "random", "expert", "retrieve", a checkpoint folder, or a run (its newest checkpoint).
        data: root folder of the datasets that retrieval, prompts and random answers are from.
        seed: of random actions and of sampling.
        prompt_episodes: demonstrations to draw prompts from, 0 for no prompt.
        temperature: 0 takes the likeliest action, above it samples.
        capacity: steps that retrieval searches at most.
        label: name in tables, by default `who`, or "gato" for a checkpoint.
        datasets: patterns of the datasets that retrieval and prompts are from.

    Raises:
        UserError: `who` is none of these.
    """
    if who == "random":
        return AgentSpec(
            label or who, lambda task: _random(task, data, seed), lambda task: _random_version(task, data)
        )
    if who == "expert":
        return AgentSpec(label or who, None)

    def shown(task: Task) -> list[Dataset]:
        return demonstrations(data, task.name, datasets)

    if who == "retrieve":
        return AgentSpec(
            label or who,
            lambda task: _retrieve(task, shown, capacity),
            lambda task: f"{_data_version(shown(task))}/{capacity}",
        )
    return _checkpoint_agent(find_checkpoint(who), shown, seed, prompt_episodes, temperature, label)


def find_checkpoint(path: Path | str) -> Path:
    """A checkpoint folder, or the newest one of a run.

    Raises:
        UserError: neither.
    """
    path = Path(path)
    if (path / "model.safetensors").is_file():
        return path
    newest = latest_checkpoint(path) if path.is_dir() else None
    if newest is None:
        names = '"random", "expert", "retrieve"'
        raise UserError(f"agent: expected {names}, a checkpoint folder or a run with checkpoints, got {path}")
    return newest


def run_of(checkpoint: Path) -> Path:
    """The run that a checkpoint belongs to; one of its own where it is no run's, so that nothing is written beside
    shipped weights.

    >>> run_of(Path("runs/a/checkpoints/step-00000010")).as_posix()
    'runs/a'
    >>> run_of(Path("checkpoints/factotum-s")).as_posix()
    'runs/factotum-s'
    """
    of_a_run = checkpoint.parent.name == "checkpoints" and checkpoint.name.startswith("step-")
    return checkpoint.parent.parent if of_a_run else Path("runs") / checkpoint.resolve().name


def require_installed(names: Sequence[str]) -> None:
    """Refuse tasks whose packages are not installed.

    Raises:
        UserError: with the command that installs them.
    """
    for family in dict.fromkeys(name.split("/")[0] for name in names):
        suite = suites().get(family)
        command = suite.missing() if suite else None
        if command is not None:
            raise UserError(f"{family} tasks need packages that are not installed: run  {command}")


def demonstrations(data: Path, task: str, patterns: Sequence[str] = ("*",)) -> list[Dataset]:
    """The datasets of a task under a root folder that match a pattern, without those of random actions.

    Raises:
        UserError: there are none.
    """
    names = _datasets_by_task(data, _stamp(data)).get(task, ())
    found = [
        open_dataset(name, data) for name in names if any(fnmatch(name, pattern) for pattern in patterns)
    ]
    if not found:
        such = "" if tuple(patterns) == ("*",) else f" of datasets {', '.join(patterns)}"
        raise UserError(
            f"expected demonstrations of {task}{such} in {data}, found none: run  factotum collect {task}"
        )
    return found


def _stamp(data: Path) -> tuple[str, ...]:
    return tuple(list_datasets(data))


@lru_cache(maxsize=4)
def _datasets_by_task(data: Path, names: tuple[str, ...]) -> dict[str, list[str]]:
    tasks: dict[str, list[str]] = {}
    for name in names:
        known = open_dataset(name, data).metadata
        if known.get("actor") != "random":
            tasks.setdefault(known["task"], []).append(name)
    return tasks


def _data_version(datasets: Sequence[Dataset]) -> str:
    """Changes when the demonstrations do."""
    known = json.dumps([one.raw_metadata for one in datasets], sort_keys=True, default=str)
    return hashlib.sha256(known.encode()).hexdigest()[:12]


def _random(task: Task, data: Path, seed: int) -> RandomAgent:
    answers: list[str] = []
    if isinstance(task.action_space, spaces.Text) and task.name in _datasets_by_task(data, _stamp(data)):
        episodes = islice(chain.from_iterable(demonstrations(data, task.name)), 10_000)
        answers = [str(answer) for episode in episodes for answer in episode.actions]
    return RandomAgent(task.action_space, seed, answers)


def _random_version(task: Task, data: Path) -> str:
    """Random answers are those of the demonstrations, where there are some."""
    known = isinstance(task.action_space, spaces.Text) and task.name in _datasets_by_task(data, _stamp(data))
    return _data_version(demonstrations(data, task.name)) if known else ""


def _retrieve(task: Task, shown: Shown, capacity: int) -> RetrieveAgent:
    episodes = chain.from_iterable(shown(task))
    return RetrieveAgent(episodes, task.observation_space, task.action_space, capacity)


def _checkpoint_agent(
    folder: Path, shown: Shown, seed: int, prompt_episodes: int, temperature: float, label: str | None
) -> AgentSpec:
    from factotum.gato import Gato, GatoAgent

    model = Gato.load_folder(folder)
    version = checkpoint_hash(folder)

    def make_agent(task: Task) -> Agent:
        episodes = chain.from_iterable(shown(task)) if prompt_episodes else iter(())
        prompts = list(islice(episodes, prompt_episodes))
        return GatoAgent(
            model,
            task.name,
            task.observation_space,
            task.action_space,
            prompts=prompts,
            temperature=temperature,
            seed=seed,
        )

    def version_of(task: Task) -> str:
        parts = [version]
        if prompt_episodes:
            parts.append(f"prompt{prompt_episodes}-{_data_version(shown(task))}")
        return "/".join([*parts, f"t{temperature:g}"] if temperature else parts)

    default = "gato" + "+prompt" * bool(prompt_episodes) + f"@{temperature:g}" * bool(temperature)
    return AgentSpec(label or default, make_agent, version_of)

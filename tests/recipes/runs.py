"""A data folder and a tiny trained run, made once a process for the tests of the recipes."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from factotum.data.episode import Episode
from factotum.data.store import write_dataset
from factotum.recipes import train
from factotum.training.config import TrainConfig
from factotum.worlds.rollout import expert_actor, rollout
from factotum.worlds.suites import registry

_folder = tempfile.TemporaryDirectory()  # goes when the process ends
TASKS = ("gym/FrozenLakeFirm", "scenes/color")


def demonstrate(name: str, seeds: range) -> list[Episode]:
    """What the expert does from each seed."""
    task = registry.task(name)
    env, episodes = task.make(), []
    assert task.make_expert is not None
    for seed in seeds:
        actor = expert_actor(env, task.make_expert)
        seen = rollout(env, seed=seed, actor=actor, max_steps=task.max_steps, measure=task.measure)
        parts = seen.observations, seen.actions, seen.rewards, seen.terminated, seen.truncated
        episodes.append(Episode.from_steps(*parts, seed, seen.score))
    return episodes


@lru_cache(maxsize=1)
def data_folder() -> Path:
    """Demonstrations of TASKS, and of one an extra dataset of random actions that nobody should imitate."""
    root = Path(_folder.name) / "data"
    for name in TASKS:
        task = registry.task(name)
        for kind in ("expert", "random") if name == TASKS[0] else ("expert",):
            known = {
                "task": name,
                "instruction": task.instruction,
                "body": task.body,
                "measure": task.measure,
            }
            episodes = demonstrate(name, range(8))
            if kind == "random":
                for episode in episodes:
                    episode.actions[:] = 0
            spaces = task.observation_space, task.action_space
            write_dataset(root, f"{name}/{kind}-v0", episodes, *spaces, {**known, "actor": kind})
    return root


@lru_cache(maxsize=1)
def tiny_run() -> Path:
    """A run of two updates: it has learnt nothing, and has all the files."""
    run = Path(_folder.name) / "runs" / "tiny"
    size = train.Size(tokens="fused", context=64, layers=1, width=32, heads=2, head_size=16, feed_forward=64)
    training = TrainConfig(steps=2, warmup_steps=0, log_every=1, tensorboard=False, device="cpu")
    train.main(
        train.Args(
            run=run, data=data_folder(), datasets=("*expert-v0",), rows=2, size=size, training=training
        )
    )
    return run

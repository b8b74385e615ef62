"""Measures the random and expert score of tasks and writes them into the package.

    python benchmarks/measure_references.py --tasks babyai metaworld gym box2d --episodes 100

Scores are means over seeds 0, 1, 2, ...; episodes on which the expert gives up are discarded and
counted. What is recorded already with at least as many episodes is kept, so it can be stopped and
started again at any time.
"""

from __future__ import annotations

import fcntl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro

from factotum.core.files import read_json, write_json_atomic
from factotum.recipes.policy_expert import task_of
from factotum.worlds.rollout import expert_actor, random_actor, rollout
from factotum.worlds.suites.registry import expand
from factotum.worlds.suites.task import ExpertFailure, Task

REFERENCES = Path(__file__).parents[1] / "factotum" / "worlds" / "suites" / "references.json"


@dataclass(frozen=True)
class Args:
    """Measure reference scores."""

    tasks: list[str] = field(default_factory=lambda: ["gym", "box2d", "babyai", "metaworld"])
    """suites, globs or names of tasks"""
    kinds: list[str] = field(default_factory=lambda: ["random", "expert"])
    """"random", "expert" or both"""
    episodes: int = 100
    """episodes for each task and kind"""
    expert: str = ""
    """folder of a trained policy that is the expert of a task that has none"""


def play(env: gymnasium.Env, chosen: Task, kind: str, seed: int) -> float | None:
    """The score of one episode; None where the expert gave up."""
    if kind == "random":
        actor = random_actor(chosen.action_space, seed)
    else:
        assert chosen.make_expert is not None
        actor = expert_actor(env, chosen.make_expert)
    try:
        episode = rollout(env, seed=seed, actor=actor, max_steps=chosen.max_steps, measure=chosen.measure)
    except ExpertFailure:
        return None
    return episode.score


def measure(chosen: Task, kind: str, episodes: int, expert: str = "") -> dict[str, Any]:
    """Mean, spread and provenance of a task's score; `expert` names a policy."""
    env = chosen.make()
    scores = [play(env, chosen, kind, seed) for seed in range(episodes)]
    env.close()
    kept = np.array([score for score in scores if score is not None])
    discarded = episodes - len(kept)
    source = f"measured by benchmarks/measure_references.py: {len(kept)} episodes, seeds 0-{episodes - 1}"
    if kind == "expert" and expert:
        source += f", policy {Path(expert).name}"
    return {
        "score": round(float(kept.mean()), 6),
        "standard_deviation": round(float(kept.std(ddof=1)), 6),
        "episodes": len(kept),
        "discarded": discarded,
        "source": source + (f", {discarded} discarded because the expert gave up" if discarded else ""),
    }


def record(name: str, kind: str, entry: dict[str, Any]) -> None:
    """Add one entry to the package's file, in the order of names."""
    with open(__file__) as lock:  # several may measure at once: one writes at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        contents = read_json(REFERENCES)
        contents["tasks"].setdefault(name, {})[kind] = entry
        contents["tasks"] = dict(sorted(contents["tasks"].items()))
        write_json_atomic(REFERENCES, contents)


def main(args: Args) -> None:
    """Measure what is not measured yet, one task after the other."""
    for name in expand(args.tasks):
        chosen = task_of(name, args.expert)
        for kind in args.kinds:
            known = read_json(REFERENCES)["tasks"].get(name, {}).get(kind)
            enough = known is not None and known["episodes"] + known["discarded"] >= args.episodes
            if enough or (kind == "expert" and chosen.make_expert is None):
                continue
            start = time.perf_counter()
            entry = measure(chosen, kind, args.episodes, args.expert)
            record(name, kind, entry)
            seconds = time.perf_counter() - start
            print(f"{name:40} {kind:7} {entry['score']:10.3f}  {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))

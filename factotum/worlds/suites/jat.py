"""Scores of the JAT generalist and of its references, task by task (package data `jat_scores.json`).

Reference: Gallouedec et al., "Jack of All Trades, Master of Some" (2024), arXiv 2402.09844.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

from factotum.worlds.suites.task import Reference

_ALIASES = {
    "mujocoinverteddoublependulum": "mujoco-doublependulum",
    "mujocoinvertedpendulum": "mujoco-pendulum",
    "mujocohumanoidstandup": "mujoco-standup",
    "mujocowalker2d": "mujoco-walker",
}


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, Any]]:
    """The entries by task name in lower case, without "/" and "-"."""
    file = files("factotum.worlds.suites").joinpath("jat_scores.json")
    entries = json.loads(file.read_text(encoding="utf-8"))["tasks"]
    table = {name.replace("-", ""): {"name": name, **entry} for name, entry in entries.items()}
    return table | {ours: table[theirs.replace("-", "")] for ours, theirs in _ALIASES.items()}


def jat_entry(task_name: str) -> dict[str, Any] | None:
    """What is recorded of JAT on a task of ours, or None where JAT has no such task.

    Keys: "name" (JAT's), "random", "expert", "human", "jat_raw", "jat_normalised", ...; see the
    notes in the file.

    >>> jat_entry("atari/Pong")["name"], jat_entry("scenes/caption")
    ('atari-pong', None)
    """
    return _table().get(task_name.replace("/", "").replace("-", "").lower())


def jat_reference(task_name: str, kind: str, note: str = "") -> Reference | None:
    """The "random" or "expert" return that JAT was normalised by, or None where JAT has no such task.

    A reference that differs from google-deepmind/dqn_zoo says so in its source.

    Args:
        task_name: full name of a task of ours.
        kind: "random" or "expert".
        note: added to the source, such as how the environments differ.

    >>> jat_reference("atari/Pong", "random").score
    -20.7
    """
    entry = jat_entry(task_name)
    if entry is None:
        return None
    source = f"JAT scores dictionary, {entry['name']}{note and '; '}{note}"
    suspect = entry.get("reference_suspect")
    if suspect and suspect["field"] == kind:
        source += f"; suspect: dqn_zoo has {suspect['dqn_zoo_value']}"
    return Reference(float(entry[kind]), source)


def jat_score(task_name: str) -> float | None:
    """JAT's expert-normalised score on a task of ours, or None where JAT has no such task.

    (JAT - random) / (expert - random). On Meta-World it is made of returns of 100-step episodes of
    the v2 environments, while ours count success: indicative only.

    >>> jat_score("babyai/BossLevel"), jat_score("gym/Taxi")
    (0.5435, None)
    """
    entry = jat_entry(task_name)
    return None if entry is None else float(entry["jat_normalised"])

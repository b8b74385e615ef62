"""What a task, an expert and a suite are. Knows no environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import gymnasium
from gymnasium.spaces import Space

Env = gymnasium.Env
"""What a task makes; named here for those who may not import environments."""

Expert = Callable[[Any, Any], Any]
"""`expert(observation, last_action) -> action`: lives for one episode.

`last_action` is the action that was really executed before (None at first), so that another
actor may act while the expert labels. It must not change the environment.
"""


class ExpertFailure(RuntimeError):
    """The expert gave up, crashed or ran out of time: the episode is to be discarded."""


@dataclass(frozen=True)
class Reference:
    """A measured mean episode score, and who measured it how."""

    score: float
    source: str


@dataclass(frozen=True)
class Task:
    """One environment with all that a generalist and its judge need to know about it.

    Args:
        name: full name, "suite/Task".
        make: builds the environment (`render_mode="rgb_array"`); imports its packages when called.
        observation_space: a `gymnasium.spaces.Dict` with an "instruction" entry, declared
            without building the environment and equal to the built one's.
        action_space: Discrete, bounded Box or Text.
        instruction: default instruction text.
        body: tasks with the same body share observation statistics.
        measure: "return" scores an episode by its summed reward; "success" by 1.0 if
            `info["success"]` was ever true, else 0.0.
        max_steps: upper bound on the length of an episode.
        make_expert: called with the environment right after `reset`; None where there is no expert.
        random: mean score of uniformly random actions, None where not measured.
        expert: mean score of the expert, None where not measured.
    """

    name: str
    make: Callable[[], gymnasium.Env]
    observation_space: Space
    action_space: Space
    instruction: str
    body: str
    measure: Literal["return", "success"]
    max_steps: int
    make_expert: Callable[[gymnasium.Env], Expert] | None = None
    random: Reference | None = None
    expert: Reference | None = None


@dataclass(frozen=True)
class Suite:
    """A family of tasks that needs the same packages.

    Args:
        name: what task names start with.
        title: one line for listings.
        names: full names of all its tasks.
        task: makes the `Task` of a full name; works without the packages.
        requires: importable modules without which no environment can be made.
        extra: the optional dependency of factotum that installs them; None for other packages.

    >>> Suite("chess", "Chess", ("chess/Mate",), None, ("no_such_module",), "chess").missing()
    "pip install 'factotum[chess]'"
    """

    name: str
    title: str
    names: tuple[str, ...]
    task: Callable[[str], Task]
    requires: tuple[str, ...] = ()
    extra: str | None = None

    def missing(self) -> str | None:
        """The command that installs what this suite lacks here, or None when nothing is missing."""
        absent = [module for module in self.requires if find_spec(module) is None]
        if not absent:
            return None
        return f"pip install 'factotum[{self.extra}]'" if self.extra else f"pip install {' '.join(absent)}"

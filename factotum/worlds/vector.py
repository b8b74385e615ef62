"""Worlds of many environments side by side, by name.

>>> world = make_vector("gym/CartPole-v1", 2)
>>> world.reset(seed=0).shape
(2, 4)
>>> world.step(np.array([0, 1])).reward.tolist()
[1.0, 1.0]
"""

from __future__ import annotations

from importlib.util import find_spec

import gymnasium
import numpy as np  # for the doctest  # noqa: F401

from factotum.core.checks import unknown
from factotum.worlds import vector_atari
from factotum.worlds.suites import atari, minatar
from factotum.worlds.vector_atari import VectorAtari
from factotum.worlds.vector_base import Transition as Transition
from factotum.worlds.vector_base import VectorWorld as VectorWorld
from factotum.worlds.vector_base import row_seeds as row_seeds
from factotum.worlds.vector_gym import VectorGym
from factotum.worlds.vector_minatar import VectorMinAtar
from factotum.worlds.vector_suite import SUITES, VectorSuite, suite_names

BOX_FAMILIES = ("classic_control", "box2d", "mujoco")
"""Gymnasium's own families whose observations are Boxes; ids of other packages are found too, but not listed."""


def make_vector(name: str, count: int, *, threads: int = 0) -> VectorWorld:
    """`count` environments of one task.

    Args:
        name: "minatar/breakout", "atari/Pong", "gym/CartPole-v1", "babyai/GoToLocal", "metaworld/reach"; see
            `vector_name` for what else is understood.
        count: B.
        threads: CPU threads for Atari, 0 for as many as there are cores; the other worlds take none.

    Raises:
        UserError: no such task, or what it needs is not installed.
    """
    full = vector_name(name)
    family, _, rest = full.partition("/")
    if family == "minatar":
        return VectorMinAtar(rest, count)
    if family in SUITES:
        return VectorSuite(full, count)
    return VectorAtari(rest, count, threads) if family == "atari" else VectorGym(rest, count)


def vector_names() -> tuple[str, ...]:
    """Names that `make_vector` takes: MinAtar's, Atari's, tasks of suites that are arrays, Gymnasium's own with a Box.

    >>> {"minatar/seaquest", "atari/Pong", "gym/CartPole-v1", "babyai/GoToLocal"} <= set(vector_names())
    True
    """
    games = vector_atari.games() if find_spec("ale_py") else tuple(atari.ACTIONS)
    atari_names, gym_names = (f"atari/{game}" for game in games), (f"gym/{id}" for id in _own_ids())
    return (*minatar.SUITE.names, *atari_names, *suite_names(), *gym_names)


def vector_name(text: str) -> str:
    """The canonical name: capitals, dashes and underscores are forgiven, and any registered id passes.

    >>> vector_name("atari-pong"), vector_name("minatar/Space-Invaders"), vector_name("ALE/MsPacman-v5")
    ('atari/Pong', 'minatar/space_invaders', 'atari/MsPacman')
    >>> vector_name("CartPole-v1")
    'gym/CartPole-v1'
    """
    names = vector_names()
    wanted = text.removeprefix("gym/")
    if wanted in gymnasium.registry and not wanted.startswith("ALE/"):
        return f"gym/{wanted}"
    if wanted.startswith("ALE/"):
        wanted = f"atari/{wanted.removeprefix('ALE/').partition('-')[0]}"
    found = [name for name in names if _bare(name) in (_bare(text), _bare(wanted), _bare(f"gym/{wanted}"))]
    if len(found) != 1:
        raise unknown("world", text, names)
    return found[0]


def _bare(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _own_ids() -> list[str]:
    modules = tuple(f"gymnasium.envs.{family}." for family in BOX_FAMILIES)
    return [id for id, spec in gymnasium.registry.items() if str(spec.entry_point).startswith(modules)]

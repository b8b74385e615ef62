"""What the generalist learns, how much of it is shown, and what is kept from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil

from factotum.core.checks import unknown
from factotum.recipes.player import TOGETHER
from factotum.worlds.suites import registry

LEFT_OUT = {
    "pixels/GoToRedBallGrey": "a level of training, with grey things around the ball in place of coloured ones",
    "pixels/GoToLocal": "any thing of any colour, where images of training show where to go with balls and doors",
    "pixels/PickupLoc": "words of place that training has with symbols alone, never with images",
    "pixels/PutNextLocal": "a way of acting that training has with symbols alone",
    "gym/FrozenLake8x8Firm": "the rule of one task of training on the map of another",
}
"""Tasks that training never sees, and why these: JAT has none of them, so that nothing is lost beside it; all are made
of parts that other tasks have; and none needs statistics of observations that training lacks."""

FEW = 5
"""Demonstrations of a left-out task: the ones a prompt is drawn from, and all that retrieve-and-play has."""

SHOWN = ("GoToObj", "GoToRedBall", "GoToRedBlueBall", "OneRoomS8", "OpenRedDoor", "PickupDist")
"""Levels seen as images that are trained on: what the left-out ones are made of."""

ONE_STEP = ("scenes/*", "digits/*")
"""Nothing the agent does changes what it sees next, so an expert beside it has nothing to add."""

SUITES = ("babyai", "metaworld", "gym", "box2d", "scenes", "digits", "mujoco", "atari", "minatar")
"""Families all of whose tasks are trained on that have an expert."""

ROOMS = (
    "ActionObjDoor", "GoToDoor", "GoToLocal", "GoToObj", "GoToRedBall", "GoToRedBallGrey", "GoToRedBallNoDists",
    "GoToRedBlueBall", "OneRoomS8", "OpenDoor", "OpenDoorsOrderN4", "OpenRedDoor", "OpenTwoDoors", "PickupDist",
    "PickupLoc", "PutNextLocal",
)  # fmt: skip
"""Levels of BabyAI in one room."""

SEVERAL_CLAUSES = (
    "BossLevel", "BossLevelNoUnlock", "GoToSeq", "MiniBossLevel", "MoveTwoAcrossS8N9", "OpenDoorsOrderN4",
    "OpenTwoDoors", "SynthSeq",
)  # fmt: skip
"""Levels whose missions `worlds.paraphrase` does not say in other words."""

WORD_LEVELS = tuple(
    f"babyai/{level}"
    for level in (
        "ActionObjDoor", "GoToDoor", "GoToLocal", "GoToRedBlueBall", "OpenDoor", "PickupDist", "PickupLoc", "PutNext",
        "PutNextLocal", "UnblockPickup",
    )
)  # fmt: skip
"""Where other words are measured: levels that cannot be solved without understanding the mission."""

WORD_SPLITS = ("training", "order", "words", "held-out")
"""Other words: those of training data, in another order, held-out words, and both."""


@dataclass(frozen=True)
class Material:
    """How much of a task there is.

    Args:
        expert: the expert's episodes.
        round: episodes in which the agent acts and the expert labels, in each further round.
        weight: how often it is drawn in training.
        words: episodes whose mission is said in other words.
    """

    expert: int
    round: int = 0
    weight: float = 1.0
    words: int = 0


MATERIAL: dict[str, Material] = {
    **{f"babyai/{level}": Material(1500, 60, 0.7, 200) for level in ROOMS},
    **{f"babyai/{level}": Material(1500, 60, 0.7) for level in set(ROOMS) & set(SEVERAL_CLAUSES)},
    **{f"babyai/{level}": Material(3000, 150, 2.0) for level in SEVERAL_CLAUSES if level not in ROOMS},
    "babyai/*": Material(3000, 150, 2.0, 200),
    "metaworld/*": Material(150, 40, 1.0),
    "gym/FrozenLake*": Material(300, 40, 0.3),
    "gym/Taxi": Material(500, 40, 0.5),
    "gym/CliffWalking": Material(20, 20, 0.2),
    "gym/Blackjack": Material(2000, 200, 0.3),
    "gym/CartPole": Material(40, 20, 0.4),
    "gym/*": Material(100, 40, 0.5),
    "box2d/BipedalWalker": Material(100, 20, 1.5),
    "box2d/*": Material(200, 40, 1.5),
    "mujoco/Reacher": Material(600, 60, 1.0),
    "mujoco/*": Material(50, 10, 1.0),
    "atari/*": Material(8, 0, 2.0),
    "scenes/caption": Material(20_000, 0, 3.0),
    "scenes/*": Material(6000, 0, 1.5),
    "digits/*": Material(1500, 0, 0.4),
    "pixels/*": Material(500, 40, 0.7),
}
"""By pattern, the first that matches. Mazes more than rooms, motor skills and captions more than what is learnt at
once, as in the quickstart. Atari's planner is slow and its pictures take 25 kB a step, so it gets no rounds."""

TAUGHT = {"atari/*": Material(16, 4, 2.0), "minatar/*": Material(100, 20, 1.0)}
"""The same of tasks that a trained policy shows."""


def material(task: str, taught: bool = False) -> Material:
    """How much of a task there is.

    Args:
        task: its name.
        taught: whether a trained policy shows it.

    Raises:
        UserError: the recipe has no such task.

    >>> material("babyai/BossLevel").expert, material("gym/Taxi").expert, material("atari/Pong").round
    (3000, 500, 0)
    """
    for pattern, found in (TAUGHT if taught else MATERIAL).items():
        if fnmatchcase(task, pattern):
            return found
    raise unknown("task of the generalist", task, trained_tasks())


def trained_tasks(taught: Collection[str] = ()) -> list[str]:
    """All tasks of training: those of the families that have an expert, without the left-out ones.

    Args:
        taught: tasks that trained policies show, whether or not they have another expert.

    Raises:
        UserError: a policy for something else.

    >>> len(trained_tasks()), sum(name.startswith("babyai/") for name in trained_tasks())
    (122, 39)
    >>> len(trained_tasks(["minatar/breakout", "atari/Pong"]))
    123
    """
    names = [name for suite in SUITES for name in registry.suites()[suite].names]
    names += [f"pixels/{level}" for level in SHOWN]
    known = [name for name in names if any(fnmatchcase(name, pattern) for pattern in TAUGHT)]
    for name in taught:
        if name not in known:
            raise unknown("task of the generalist that a policy shows", name, known)
    return [
        name for name in names if (name in taught or registry.task(name).make_expert) and name not in LEFT_OUT
    ]


def choose(patterns: Iterable[str], taught: Collection[str] = ()) -> list[str]:
    """The tasks of training that match a pattern or are of a suite; all where there is none.

    Raises:
        UserError: a pattern matches none.

    >>> choose(["digits", "gym/Frozen*"])
    ['gym/FrozenLake', 'gym/FrozenLakeFirm', 'gym/FrozenLake8x8', 'digits/name']
    """
    every, wanted = trained_tasks(taught), [*patterns]
    for pattern in wanted:
        if not any(_matches(name, pattern) for name in every):
            raise unknown("task of the generalist", pattern, every)
    return [name for name in every if not wanted or any(_matches(name, pattern) for pattern in wanted)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.partition("/")[0] == pattern


def scaled(count: int, scale: float, least: int = 4) -> int:
    """A number of episodes at a scale; 0 stays 0.

    >>> scaled(150, 0.1), scaled(20, 0.01), scaled(0, 0.5)
    (15, 4, 0)
    """
    return max(least, round(count * scale)) if count else 0


def chunk_of(episodes: int) -> int:
    """Episodes that a collecting process hands over at once: some chunks for each process, where there are enough.

    >>> chunk_of(4), chunk_of(40), chunk_of(3000)
    (1, 5, 16)
    """
    return max(1, min(16, episodes // 8))


def together(episodes: int) -> int:
    """The same where the agent acts: as many as it plays at once, fewer where two processes have too little to share.

    >>> together(1), together(12), together(150)
    (1, 6, 8)
    """
    return max(1, min(TOGETHER, ceil(episodes / 2)))


def by_count(counts: Mapping[str, int], experts: Mapping[str, str]) -> dict[tuple[int, str], list[str]]:
    """Tasks that have the same number of episodes and the same expert, so that one command collects them.

    Args:
        counts: episodes by task; 0 is left out.
        experts: folders of the policies that show some of them; "" stands for a task's own expert.

    >>> by_count({"a": 2, "b": 3, "c": 2, "d": 0, "e": 2}, {"e": "policy"})
    {(2, ''): ['a', 'c'], (3, ''): ['b'], (2, 'policy'): ['e']}
    """
    found: dict[tuple[int, str], list[str]] = {}
    for name, count in counts.items():
        if count:
            found.setdefault((count, experts.get(name, "")), []).append(name)
    return found

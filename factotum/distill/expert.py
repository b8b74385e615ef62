"""Teachers that see the environment itself: the expert of a world's task, a planner with all there is to know.

Such a teacher has no labels for observations by themselves; it says what it would do in the world as it stands now.
It is told what was really done at every step, so that the student may act (DAgger). Knows worlds by what they do alone.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.distill.teacher import CheckedTeacher, Kind, Teacher


@runtime_checkable
class Advising(Protocol):
    """A world whose task has an expert; `worlds.vector_suite.VectorSuite` is one.

    Attributes:
        name: of the task.
        action_space: of one environment.
        advice: what the experts would do next, one row an environment.
        lost: rows whose expert gave up in this episode.
        shown: the newest observations.
    """

    name: str
    action_space: spaces.Discrete | spaces.Box
    advice: np.ndarray
    lost: np.ndarray
    shown: np.ndarray

    def advise(self) -> None: ...  # noqa: D102


class WorldExpert:
    """The expert of a world.

    Args:
        world: whose; a teacher for other worlds of the same task is had by `within`.

    Attributes:
        silent: (B,) rows for which it has nothing to say, since it gave up in this episode; their labels are
            those of action 0, and nothing is to be learnt from them.

    Raises:
        UserError: the world has no expert.
    """

    def __init__(self, world: Any) -> None:
        if not hasattr(world, "advise"):
            raise UserError(f"{world.name}: expected a world with an expert, this one has none")
        world.advise()
        self.world: Advising = world
        space = world.action_space
        continuous = isinstance(space, spaces.Box)
        self.kind: Kind = "continuous" if continuous else "actions"
        self.actions = int(np.prod(space.shape)) if continuous else int(space.n)
        name = f"expert of {world.name}"
        self._checked = CheckedTeacher(lambda _: self.world.advice, self.kind, self.actions, name=name)

    @property
    def silent(self) -> np.ndarray:
        """Rows without a label."""
        return self.world.lost

    def within(self, world: Any) -> WorldExpert:
        """The expert of another world of the same task, from its next reset on."""
        return self if world is self.world else WorldExpert(world)

    def label(self, observation_B: np.ndarray) -> np.ndarray:
        """Labels of what the world shows now, `(B, A)`: one-hot actions, or continuous actions.

        Raises:
            UserError: other observations.
        """
        if observation_B is not self.world.shown and not np.array_equal(observation_B, self.world.shown):
            raise UserError(
                f"expert of {self.world.name}: expected the observations that its world shows now, got others; it "
                f"sees the environment, not observations"
            )
        return self._checked.label(observation_B)


def seat(teacher: Teacher, world: Any) -> Teacher:
    """The teacher for a world: one that sees the environment takes its place there, others stay as they are."""
    return teacher.within(world) if isinstance(teacher, WorldExpert) else teacher


def labels_for(
    teacher: Teacher, observation_B: np.ndarray, wanted_B: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the wanted rows that the teacher has something to say about, and which those are.

    >>> from factotum.distill.teacher import as_teacher
    >>> double = as_teacher(lambda x: 2 * x, kind="q", actions=1)
    >>> label, rows = labels_for(double, np.array([[1.0], [2.0]]), np.array([False, True]))
    >>> label.tolist(), rows.tolist()
    ([[4.0]], [False, True])
    """
    if isinstance(teacher, WorldExpert):
        known_B = wanted_B & ~teacher.silent
        return teacher.label(observation_B)[known_B], known_B
    return teacher.label(observation_B[wanted_B]), wanted_B

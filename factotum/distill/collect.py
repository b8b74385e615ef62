"""Somebody plays, the teacher says what it would have done, the replay keeps it.

The teacher plays in the paper. Where the student plays (DAgger, Ross et al., 2011, arXiv 1011.0686), the teacher's
labels cover what the student meets; a mixture of both is theirs, too. Knows worlds by what they do alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.seeding import derive_seed, numpy_generator
from factotum.distill.agent import TeacherAgent
from factotum.distill.choice import CONTINUOUS
from factotum.distill.expert import WorldExpert, seat
from factotum.distill.q_learning import Moved
from factotum.distill.replay import TeacherReplay
from factotum.distill.teacher import Teacher


class Played(Protocol):
    """Environments side by side; `worlds.vector.VectorWorld` is one.

    Attributes:
        name: of the task.
        count: B.
        observation_space: of one environment.
        action_space: of one environment.
        newest: which channels of an observation are new, where it is a stack of frames.
    """

    name: str
    count: int
    observation_space: spaces.Box
    action_space: spaces.Discrete | spaces.Box
    newest: slice | None

    def reset(self, seed: int) -> np.ndarray: ...  # noqa: D102
    def step(self, action: np.ndarray) -> Moved: ...  # noqa: D102
    def snapshot(self) -> dict[str, Any] | None: ...  # noqa: D102
    def restore(self, snapshot: dict[str, Any]) -> np.ndarray: ...  # noqa: D102


@dataclass(frozen=True)
class Play:
    """What a call of `Collector.play` saw.

    Args:
        steps: steps stored.
        scores: returns of the episodes that ended, as the game pays, in the order of their ends.
        lengths: steps of those episodes.
    """

    steps: int
    scores: Sequence[float]
    lengths: Sequence[int]


class Collector:
    """Fills a replay.

    Args:
        world: what is played.
        agent: who plays, a `core.step.Core`: `TeacherAgent(teacher, epsilon=0.05)` in the paper, whose play takes no
            second pass of the teacher; `PolicyAgent(student)` for DAgger.
        teacher: who labels; steps about which a `WorldExpert` has nothing to say are not stored.
        replay: see `replay_of`.
        teacher_share: probability that at a step the teacher's best action is taken in the agent's place, beta in
            DAgger; may be changed at any time.
        seed: of the world and the mixture.

    Raises:
        UserError: world, teacher and replay do not fit each other.
    """

    def __init__(
        self,
        world: Played,
        agent: Any,
        teacher: Teacher,
        replay: TeacherReplay,
        *,
        teacher_share: float = 0.0,
        seed: int = 0,
    ) -> None:
        _require_fit(world, teacher, replay)
        self.world, self.agent, self.teacher, self.replay = world, agent, seat(teacher, world), replay
        self.teacher_share, self.seed = teacher_share, seed
        self.steps = self.due = self.resets = 0
        self._generator = numpy_generator(seed, "mixture", world.name)
        self._observation: np.ndarray | None = None

    def play(self, steps: int, progress: Callable[[int], None] | None = None) -> Play:
        """Play until that many steps more are stored; what is too much for whole rows counts for the next call.

        Args:
            steps: at least.
            progress: told after each step of the world how many were stored.
        """
        if self._observation is None:
            self._begin()
        self.due += steps
        before, scores, lengths = self.steps, list[float](), list[int]()
        while self.steps < self.due:
            moved, stored = self._step()
            for row in np.flatnonzero(moved.terminated | moved.truncated):
                scores.append(float(self._return[row]))
                lengths.append(int(self._length[row]))
                self._return[row] = self._length[row] = 0
            if progress is not None:
                progress(stored)
        return Play(self.steps - before, scores, lengths)

    def _begin(self) -> None:
        """Begin new episodes; after a resume others than at first."""
        self._observation = self.world.reset(derive_seed(self.seed, "play", self.resets) % 2**31)
        self.resets += 1
        self._state = self.agent.initial_state(self.world.count)
        self._first = np.ones(self.world.count, bool)
        self._return, self._length = np.zeros(self.world.count), np.zeros(self.world.count, np.int64)

    def _step(self) -> tuple[Moved, int]:
        assert self._observation is not None
        label_BA = self.teacher.label(self._observation)
        action_B = self._act(self._observation, label_BA)
        silent = self.teacher.silent.copy() if isinstance(self.teacher, WorldExpert) else None
        moved = self.world.step(action_B)
        self.replay.append(self._observation, self._first, label_BA, action_B, moved, silent)
        self._observation, self._first = moved.observation, np.asarray(moved.begun, bool)
        played = ~self._first
        self._return[played] += moved.reward[played]
        self._length += played
        stored = int((played if silent is None else played & ~silent).sum())
        self.steps += stored
        return moved, stored

    def _act(self, observation_B: np.ndarray, label_BA: np.ndarray) -> np.ndarray:
        if isinstance(self.agent, TeacherAgent) and self.agent.teacher is self.teacher:
            action_B = self.agent.choose(label_BA)
        else:
            action_B, self._state = self.agent.step((observation_B, self._first), self._state)
        if self.teacher_share <= 0:
            return np.asarray(action_B)
        chosen_B = self._generator.random(len(label_BA)) < self.teacher_share
        best_B = best_actions(self.teacher, label_BA, self.world.action_space)
        return np.where(chosen_B.reshape(-1, *[1] * (best_B.ndim - 1)), best_B, action_B)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, JSON values; the replay is flushed, so that it is not behind.

        Going on is bit-equal to not having stopped where the world has snapshots and the agent carries no state;
        elsewhere the episodes under way are given up and new ones begin. No step in the replay is lost.
        """
        self.replay.flush()
        state: dict[str, Any] = {
            "steps": self.steps,
            "due": self.due,
            "resets": self.resets,
            "generator": self._generator.bit_generator.state,
            "agent": self.agent.state_dict() if hasattr(self.agent, "state_dict") else None,
            "replay": self.replay.position(),
            "world": None,
        }
        if self._observation is not None and self._state is None:
            state["world"] = self.world.snapshot()
            state["rows"] = [self._first.tolist(), self._return.tolist(), self._length.tolist()]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; what the replay holds beyond is forgotten."""
        self.steps, self.due, self.resets = state["steps"], state["due"], state["resets"]
        self._generator.bit_generator.state = state["generator"]
        if state["agent"] is not None:
            self.agent.load_state_dict(state["agent"])
        self.replay.go_back(state["replay"])
        self._observation = None
        if state["world"] is not None:
            first, returns, lengths = state["rows"]
            self._observation, self._state = self.world.restore(state["world"]), None
            self._first, self._return = np.array(first, bool), np.array(returns, np.float64)
            self._length = np.array(lengths, np.int64)


def best_actions(
    teacher: Teacher, label_BA: np.ndarray, space: spaces.Discrete | spaces.Box | None = None
) -> np.ndarray:
    """What a teacher's labels call best: the largest number, the mean of a Gaussian, the action itself.

    >>> from factotum.distill.teacher import as_teacher
    >>> teacher = as_teacher(lambda x: x, kind="q", actions=3)
    >>> best_actions(teacher, np.array([[1.0, 3.0, 2.0]])).tolist()
    [1]
    """
    if teacher.kind not in CONTINUOUS:
        return label_BA.argmax(1)
    best_BA = label_BA[:, : teacher.actions // 2] if teacher.kind == "gaussian" else label_BA
    return np.clip(best_BA, space.low, space.high) if isinstance(space, spaces.Box) else best_BA


def replay_of(
    world: Played,
    teacher: Teacher | None,
    folder: Path | str | None,
    capacity: int,
    *,
    task: str | None = None,
    spare: int | None = None,
) -> TeacherReplay:
    """A replay for the play of a world, with a teacher's labels or without; see `TeacherReplay`."""
    space, channels = world.observation_space, None
    if world.newest is not None:
        begin, end, _ = world.newest.indices(space.shape[0])
        if end != space.shape[0]:
            raise UserError(f"{world.name}: expected the newest frame last in a stack, got {world.newest}")
        channels = end - begin
    return TeacherReplay(
        folder,
        capacity,
        space.shape,
        channels,
        0 if teacher is None else teacher.actions,
        dtype=str(space.dtype),
        action_shape=world.action_space.shape or (),
        task=task,
        spare=spare,
    )


def _require_fit(world: Played, teacher: Teacher, replay: TeacherReplay) -> None:
    space = world.action_space
    if isinstance(space, spaces.Box) != (teacher.kind in CONTINUOUS):
        raise UserError(f"{world.name}: expected a teacher for {space}, got one of kind {teacher.kind!r}")
    if isinstance(space, spaces.Box):
        wanted = int(np.prod(space.shape or ())) * (1 + (teacher.kind == "gaussian"))
    else:
        wanted = int(space.n)
    if teacher.actions != wanted:
        raise UserError(
            f"{world.name}: expected a teacher of {wanted} outputs for {space}, got {teacher.actions}"
        )
    layout, seen = replay.layout, world.observation_space
    if (layout.observation_shape, layout.dtype, layout.actions) != (seen.shape, str(seen.dtype), wanted):
        raise UserError(
            f"{world.name}: expected a replay of {seen.dtype} {seen.shape} with labels of {wanted} numbers, got one "
            f"of {layout.dtype} {layout.observation_shape} with {layout.actions}; see replay_of"
        )

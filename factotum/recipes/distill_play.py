"""The teachers' play of a run: worlds, replays and collectors of all its tasks, an hour at a time.

During an hour nobody learns, so whether games take turns after each episode, as the paper has it, or one after the
other makes no difference to what is stored; here each plays its hour in turn.

A kill during an hour has it played again from its beginning: what the replay had before is all there, since a replay
never writes over what its last flush promised. Where worlds can be restored (MinAtar's) the hour is the same again;
elsewhere (Atari's) the games under way begin anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.files import append_json_line, read_json, read_json_lines, write_json_atomic
from factotum.core.seeding import numpy_generator
from factotum.distill.agent import PolicyAgent, TeacherAgent
from factotum.distill.collect import Collector, replay_of
from factotum.distill.expert import seat
from factotum.distill.model import PolicyNetwork
from factotum.distill.objective import DistillationBatch
from factotum.distill.replay import TeacherReplay
from factotum.distill.teacher import Teacher
from factotum.recipes.distill_schedule import Schedule
from factotum.recipes.distill_tasks import Lesson
from factotum.training.checkpoint import require_same
from factotum.training.progress import Progress
from factotum.worlds.vector import VectorWorld, make_vector

Acting = Literal["teacher", "student", "mixed"]


@dataclass(frozen=True)
class PlayConfig:
    """Who plays, and how."""

    acting: Acting = "teacher"
    """who plays: the teacher, as in the paper; the student, labelled by the teacher (DAgger); or a mixture"""
    teacher_share: float = 0.5
    """share of the teacher's actions where both play"""
    epsilon: float = 0.05
    """share of random actions of whoever plays, in training and in evaluation"""
    environments: int = 16
    """environments side by side, of each task"""
    threads: int = 0
    """threads of Atari's environments, 0 for as many as there are cores"""

    def __post_init__(self) -> None:
        for name in ("teacher_share", "epsilon"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")
        if self.environments < 1:
            raise UserError(f"environments: expected 1 or more, got {self.environments}")


class Classroom:
    """Fills the replays of a run and draws minibatches from them.

    Args:
        folder: for the replays and `state.json`; one that is there is taken up.
        lessons: tasks and teachers.
        schedule: steps of an hour, size of the replays.
        config: who plays.
        seed: of worlds, of random actions and of minibatches.

    Attributes:
        hours: how many were played.

    Raises:
        UserError: a folder of other tasks, of another schedule, damaged or in use.
    """

    def __init__(
        self, folder: Path, lessons: Sequence[Lesson], schedule: Schedule, config: PlayConfig, seed: int
    ) -> None:
        self.folder, self.lessons, self.schedule, self.config, self.seed = (
            folder,
            lessons,
            schedule,
            config,
            seed,
        )
        self.hours, states = self._standing()
        self.worlds: list[VectorWorld] = []
        self.replays: list[TeacherReplay] = []
        for lesson in lessons:
            world = make_vector(lesson.task, config.environments, threads=config.threads)
            self.worlds.append(world)
            self.replays.append(self._replay(world, lesson))
        self.collectors = [
            self._collector(*three) for three in zip(lessons, self.worlds, self.replays, strict=True)
        ]
        self._take_up(states)

    def _replay(self, world: VectorWorld, lesson: Lesson) -> TeacherReplay:
        # Room for the whole of an hour beside the window, so that a kill in it costs nothing of the window.
        spare = self.schedule.steps + self.schedule.steps // 4 + 64 * world.count
        folder = self.folder / lesson.task.replace("/", "__")
        return replay_of(world, lesson.teacher, folder, self.schedule.capacity, task=lesson.task, spare=spare)

    def _collector(self, lesson: Lesson, world: VectorWorld, replay: TeacherReplay) -> Collector:
        teacher = seat(lesson.teacher, world)
        agent = TeacherAgent(teacher, self.config.epsilon, self.seed, action_space=_bounds(world))
        share = self.config.teacher_share if self.config.acting == "mixed" else 0.0
        return Collector(world, agent, teacher, replay, teacher_share=share, seed=self.seed)

    def _standing(self) -> tuple[int, list[dict[str, Any]]]:
        """Hours that were played, and where collectors stood after them."""
        path = self.folder / "state.json"
        own = {
            "tasks": [lesson.task for lesson in self.lessons],
            "steps": self.schedule.steps,
            "environments": self.config.environments,
            "replay": self.schedule.capacity,
            "seed": self.seed,
        }
        state: dict[str, Any] = (
            read_json(path) if path.is_file() else {"of": own, "hours": 0, "collectors": []}
        )
        require_same(state["of"], own, where="play")
        if not path.is_file():
            write_json_atomic(path, state)
        return state["hours"], state["collectors"]

    def _take_up(self, states: Sequence[dict[str, Any]]) -> None:
        if not states:
            for replay in self.replays:  # of a first hour that was killed
                replay.go_back({"total": 0, "low": 0, "last": []})
            return
        for collector, one in zip(self.collectors, states, strict=True):
            collector.load_state_dict(one)

    def play_hour(self, student: PolicyNetwork | None = None) -> None:
        """Play the next hour of every task and note that it was played.

        Args:
            student: acts where the configuration says so.
        """
        title = f"play hour {self.hours + 1}"
        with Progress(self.schedule.steps * len(self.lessons), title, plain_every=30.0) as bar:
            for lesson, world, collector in zip(self.lessons, self.worlds, self.collectors, strict=True):
                self._seat(lesson, world, collector, student)
                play = collector.play(self.schedule.steps, progress=lambda stored: bar.advance(stored))
                self._note(lesson, play.scores)
        self.hours += 1
        state = read_json(self.folder / "state.json")
        states = [collector.state_dict() for collector in self.collectors]
        write_json_atomic(self.folder / "state.json", {**state, "hours": self.hours, "collectors": states})

    def _seat(
        self, lesson: Lesson, world: VectorWorld, collector: Collector, student: PolicyNetwork | None
    ) -> None:
        """Let the student act, with the random numbers of whoever acted before."""
        if self.config.acting == "teacher":
            return
        if student is None:
            raise UserError(f"acting: expected a student where {self.config.acting} plays, got none")
        drawn = collector.agent.state_dict()
        collector.agent = PolicyAgent(
            student, lesson.task, self.config.epsilon, self.seed, action_space=_bounds(world)
        )
        collector.agent.load_state_dict(drawn)

    def _note(self, lesson: Lesson, scores: Sequence[float]) -> None:
        line = {
            "hour": self.hours,
            "task": lesson.task,
            "acting": self.config.acting,
            "episodes": len(scores),
        }
        append_json_line(
            self.folder / "hours.jsonl", {**line, "score": float(np.mean(scores)) if scores else None}
        )

    def replace_teacher(self, index: int, teacher: Teacher) -> None:
        """From the next hour on another teacher of the same task plays and labels."""
        collector, world = self.collectors[index], self.worlds[index]
        if isinstance(collector.agent, TeacherAgent):
            drawn = collector.agent.state_dict()
            collector.agent = TeacherAgent(
                teacher, self.config.epsilon, self.seed, action_space=_bounds(world)
            )
            collector.agent.load_state_dict(drawn)
        collector.teacher = teacher

    def batch(self, step: int, rows: int, micro: int = 0, relabel: bool = False) -> DistillationBatch:
        """A minibatch of one task, chosen at random: a function of the seed, the step and what the replays hold.

        Args:
            step: updates made before.
            rows: observations.
            micro: part of the step.
            relabel: ask the present teacher anew in place of taking what was stored.
        """
        generator = numpy_generator(self.seed, "minibatch", step, micro)
        index = int(generator.integers(len(self.replays)))
        batch = self.replays[index].sample(rows, generator)
        if not relabel:
            return batch
        label = self.collectors[index].teacher.label(batch.observation.numpy())
        return DistillationBatch(batch.observation, torch.from_numpy(label), batch.task)

    def close(self) -> None:
        """Let worlds and files go."""
        for replay in self.replays:
            replay.close()
        for world in self.worlds:
            world.close()


def _bounds(world: VectorWorld) -> spaces.Box | None:
    return world.action_space if isinstance(world.action_space, spaces.Box) else None


def hours_played(folder: Path) -> list[dict[str, Any]]:
    """What was noted of the hours of a run: who acted, the mean score of finished episodes; the last note counts."""
    found = {(line["hour"], line["task"]): line for line in read_json_lines(folder / "hours.jsonl")}
    return [found[key] for key in sorted(found)]

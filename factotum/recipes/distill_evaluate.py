"""A student beside its teachers: the same starts, whole unclipped games, agreement on what either of them meets.

Protocol, which scores depend on: the worlds' own starts (up to 30 no-ops on Atari, not the paper's human starts, which
were never published), epsilon 0.05 for student and teacher alike, at least 100 episodes, at most 27,000 steps each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from factotum.core.files import read_json, write_json_atomic
from factotum.distill.agent import PolicyAgent, TeacherAgent
from factotum.distill.choice import CONTINUOUS
from factotum.distill.expert import labels_for, seat
from factotum.distill.model import PolicyNetwork
from factotum.distill.teacher import Teacher
from factotum.losses.distillation import agreement
from factotum.recipes.distill_rollouts import Film, save_side_by_side
from factotum.recipes.distill_tasks import Lesson
from factotum.recipes.play_vector import RandomPlayer, VectorAgent, Watch, play_episodes
from factotum.training.progress import Progress
from factotum.worlds.vector import VectorWorld, make_vector


@dataclass(frozen=True)
class Evaluation:
    """How a student is measured.

    Args:
        episodes: of each task, by student, teacher and random play.
        environments: side by side.
        epsilon: share of random actions of student and teacher.
        sample: the student draws from its policy.
        seed: which block of evaluation seeds.
        shared: folder that keeps what teachers and random play scored, for other students of the same teachers.
        threads: of Atari.
    """

    episodes: int = 100
    environments: int = 50
    epsilon: float = 0.05
    sample: bool = False
    seed: int = 0
    shared: Path | None = None
    threads: int = 0


class Agreeing:
    """A `watch` that asks student and teacher the same questions, at every few steps.

    Args:
        student: its outputs for observations.
        teacher: its labels.
        continuous: measure the mean squared distance of actions in place of the share of equal best ones.
        every: steps from one question to the next.
    """

    def __init__(self, student: PolicyAgent, teacher: Teacher, continuous: bool, every: int = 4) -> None:
        self.student, self.teacher, self.continuous, self.every = student, teacher, continuous, every
        self.calls, self.total, self.count = 0, 0.0, 0

    def __call__(
        self, observation: np.ndarray, first: np.ndarray, action: np.ndarray, playing: np.ndarray
    ) -> None:
        """Ask about the rows that still play."""
        self.calls += 1
        if (self.calls - 1) % self.every:
            return
        label, asked = labels_for(self.teacher, observation, playing)
        if not asked.any():
            return
        student = self.student.outputs(observation[asked])
        if self.continuous:
            numbers = len(self.student.choose.action_space.low)  # type: ignore[union-attr]
            self.total += float(np.square(student[:, :numbers] - label[:, :numbers]).sum(1).sum())
        else:
            self.total += int(agreement(torch.from_numpy(student), torch.from_numpy(label)).sum())
        self.count += len(label)

    @property
    def mean(self) -> float:
        """Share of agreement, or mean squared distance; NaN where the teacher never said anything."""
        return self.total / self.count if self.count else float("nan")


def both(*watches: Watch) -> Watch:
    """Several watches as one."""

    def watch(observation: np.ndarray, first: np.ndarray, action: np.ndarray, playing: np.ndarray) -> None:
        for one in watches:
            one(observation, first, action, playing)

    return watch


def evaluate_lesson(
    lesson: Lesson,
    network: PolicyNetwork,
    how: Evaluation,
    videos: Path | None = None,
    bar: Progress | None = None,
) -> dict[str, Any]:
    """Scores of student, teacher and random play on the same starts, and who agrees with whom; JSON values.

    Args:
        lesson: the task and its teacher.
        network: the student.
        how: protocol.
        videos: folder for a rollout of both.
        bar: advanced by every finished game.
    """
    world = make_vector(lesson.task, min(how.environments, how.episodes), threads=how.threads)
    bounds = world.action_space if isinstance(world.action_space, spaces.Box) else None
    continuous = lesson.teacher.kind in CONTINUOUS
    student = PolicyAgent(network, lesson.task, how.epsilon, how.seed, how.sample, action_space=bounds)
    expert = seat(lesson.teacher, world)
    teacher = TeacherAgent(expert, how.epsilon, how.seed, action_space=bounds)
    questions, films, scores = {}, {}, {}
    for name, agent in (("teacher", teacher), ("student", student)):
        questions[name] = Agreeing(student, expert, continuous)
        films[name] = Film()
        watch = both(questions[name], films[name])
        scores[name] = play_episodes(world, agent, how.episodes, how.seed, watch=watch, bar=bar)
    random, known = _random_scores(lesson.task, world, how, bar)
    if videos is not None:
        save_side_by_side(
            videos, lesson.task, films, {name: float(score[0]) for name, score in scores.items()}
        )
    world.close()
    word = "distance" if continuous else "agreement"
    return {
        "task": lesson.task,
        "teacher": lesson.source,
        "teacher_version": lesson.version,
        "teacher_parameters": lesson.parameters,
        "student_scores": scores["student"].tolist(),
        "teacher_scores": scores["teacher"].tolist(),
        "random_scores": random,
        "random_episodes_shared": known,
        **{f"{word}_on_{who}_states": questions[who].mean for who in ("teacher", "student")},
    }


def _random_scores(
    task: str, world: VectorWorld, how: Evaluation, bar: Progress | None
) -> tuple[list[float], bool]:
    """Scores of random play, from the shared folder where they are there; whether they were."""
    name = f"{task.replace('/', '__')}.random.{how.episodes}.{world.count}.{how.seed}.json"
    path = how.shared / name if how.shared is not None else None
    if path is not None and path.is_file():
        if bar is not None:
            bar.advance(how.episodes)
        return read_json(path), True
    scores = play_episodes(world, RandomPlayer(world, how.seed), how.episodes, how.seed, bar=bar).tolist()
    if path is not None:
        write_json_atomic(path, scores)
    return scores, False


def agent_of(
    lesson: Lesson, network: PolicyNetwork, epsilon: float, seed: int, world: VectorWorld
) -> VectorAgent:
    """A student that acts in a world, within its bounds."""
    bounds = world.action_space if isinstance(world.action_space, spaces.Box) else None
    return PolicyAgent(network, lesson.task, epsilon, seed, action_space=bounds)

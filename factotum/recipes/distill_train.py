"""Hours of play and hours of updates by turns, in a run's folder that can be killed at any time.

An hour of play fills the replays (`distill_play.py`), then `training.train` makes the hour's updates and writes a
checkpoint. Minibatches are functions of the seed, the step and what the replays hold, so updates that a kill cut off
are made again bit-equal from the checkpoint before them, and no play is lost. The run as a whole is bit-equal where
worlds can be restored (MinAtar's) and teachers do not change by the clock (`--online-pace live`); elsewhere the games
under way when the process died begin anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from factotum.core.checks import UserError
from factotum.core.config import to_json_dict
from factotum.core.files import append_json_line, read_json, read_json_lines
from factotum.core.seeding import derive_seed
from factotum.distill.config import PolicyConfig
from factotum.distill.model import PolicyNetwork
from factotum.distill.objective import DistillationObjective
from factotum.distill.store import load_policy, save_policy
from factotum.recipes.distill_evaluate import agent_of
from factotum.recipes.distill_play import Classroom, PlayConfig
from factotum.recipes.distill_schedule import Schedule
from factotum.recipes.distill_tasks import Lesson
from factotum.recipes.play_vector import play_episodes
from factotum.training.checkpoint import latest_checkpoint
from factotum.training.config import TrainConfig
from factotum.training.distributed import make_accelerator
from factotum.training.train import train
from factotum.worlds.vector import make_vector


@dataclass(frozen=True)
class Learning:
    """How the student is updated."""

    rows: int = 32
    """observations of a minibatch, all of one task; the paper does not say how many, DQN has 32"""
    learning_rate: float = 5e-4
    """the highest; the paper's are from 1e-4 to 1e-3"""
    final_learning_rate_ratio: float = 0.1
    """last learning rate over highest, along a cosine; 1 keeps it constant"""
    warmup: float = 0.0
    """share of all updates in which the rate rises from 0; small students lose units to high rates without (LOG.md)"""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """the paper's is RMSProp, with constants that it does not state: Adam without its first moment"""
    gradient_clip: float = 10.0
    """largest norm of the gradient, 0 for none"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes under autocast"""
    device: Literal["auto", "cpu"] = "auto"
    """"cpu" keeps off an accelerator that is there"""
    seed: int = 0
    """of the student's first weights, of play and of minibatches"""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise UserError(f"rows: expected 1 or more, got {self.rows}")
        if not 0 <= self.warmup < 1:
            raise UserError(f"warmup: expected a share from 0 to below 1, got {self.warmup}")

    def train_config(self, updates: int, hours: int) -> TrainConfig:
        """For `training.train`: so many updates an hour.

        >>> Learning().train_config(100, 3).steps, Learning(warmup=0.1).train_config(100, 3).warmup_steps
        (300, 30)
        """
        return TrainConfig(
            steps=updates * hours,
            warmup_steps=int(self.warmup * updates * hours),
            learning_rate=self.learning_rate,
            final_learning_rate_ratio=self.final_learning_rate_ratio,
            betas=(0.9, 0.999) if self.optimizer == "adam" else (0.0, 0.95),
            weight_decay=0.0,
            gradient_clip=self.gradient_clip,
            precision=self.precision,
            device=self.device,
            seed=self.seed,
            checkpoint_every=updates,
            log_every=max(1, min(updates, updates * hours // 100)),
            tensorboard=False,
        )


@dataclass(frozen=True)
class Student:
    """A student to be trained.

    Args:
        run: its folder.
        config: sizes.
        objective: the loss.
        schedule: hours.
        play: who plays.
        learning: how it is updated.
        score_every: hours between scores that are noted in `scores.jsonl`, 0 for none.
        score_episodes: games of each task for such a score.
    """

    run: Path
    config: PolicyConfig
    objective: DistillationObjective
    schedule: Schedule
    play: PlayConfig
    learning: Learning
    score_every: int = 0
    score_episodes: int = 20

    def fresh(self) -> PolicyNetwork:
        """The untrained network, as `training.train` makes it."""
        torch.manual_seed(derive_seed(self.learning.seed, "model"))
        return PolicyNetwork(self.config)

    def newest(self) -> PolicyNetwork:
        """The network of the newest checkpoint, untrained where there is none."""
        folder = latest_checkpoint(self.run)
        network = self.fresh() if folder is None else load_policy(folder)
        return network.to(make_accelerator(self.learning.device).device)


def train_student(
    student: Student,
    lessons: Sequence[Lesson],
    *,
    lessons_at: Callable[[float], Sequence[Lesson]] | None = None,
    settings: dict[str, Any] | None = None,
) -> PolicyNetwork:
    """Play and learn for all hours that are left; the student.

    Args:
        student: what is trained, where.
        lessons: tasks and teachers.
        lessons_at: the teachers of an hour, given the share of hours that are over by its end, where they change; their
            labels are asked anew for what is in the replays.
        settings: JSON values of what else shapes the run; resuming with others is refused.

    Raises:
        UserError: what `training.train` raises, or a teacher that does not fit.
    """
    schedule, updates = student.schedule, student.schedule.updates * len(lessons)
    config = student.learning.train_config(updates, schedule.hours)
    newest = latest_checkpoint(student.run)
    if newest is not None and "ranks" not in read_json(newest / "training_state.json"):
        raise UserError(f"{student.run}: expected a distillation's run, got one of something else")
    room = Classroom(student.run / "play", lessons, schedule, student.play, student.learning.seed)

    def learn(stop: int) -> None:
        train(
            make_model=lambda: PolicyNetwork(student.config),
            batch_source=lambda step, rank, world_size, micro: room.batch(
                step, student.learning.rows, micro, relabel=lessons_at is not None
            ),
            objective=student.objective,
            config=config,
            run=student.run,
            save_model=_save,
            load_model=_load,
            settings={**_settings(student), **(settings or {})},
            stop=stop,
        )

    try:
        if newest is not None:
            learn(0)  # refuses changed settings before anything is played
            note_scores(student, lessons, _step(student.run) // updates)  # that a kill may have left out
        for hour in range(_step(student.run) // updates, schedule.hours):
            if lessons_at is not None:
                for index, lesson in enumerate(lessons_at((hour + 1) / schedule.hours)):
                    room.replace_teacher(index, lesson.teacher)
            _play(room, hour, student)
            learn((hour + 1) * updates)
            note_scores(student, lessons, hour + 1)
    finally:
        room.close()
    return student.newest()


def share_now(run: Path, schedule: Schedule, lessons: int) -> float:
    """The share of hours that are over by the end of the hour which a run is in."""
    hour = min(_step(run) // (schedule.updates * lessons), schedule.hours - 1)
    return (hour + 1) / schedule.hours


def _step(run: Path) -> int:
    newest = latest_checkpoint(run)
    return 0 if newest is None else int(newest.name.removeprefix("step-"))


def _play(room: Classroom, hour: int, student: Student) -> None:
    """Play what is missing up to and with an hour, and note how long it took."""
    while room.hours <= hour:
        started = time.perf_counter()
        room.play_hour(student.newest() if student.play.acting != "teacher" else None)
        line = {"hour": room.hours, "seconds": time.perf_counter() - started}
        append_json_line(student.run / "play" / "seconds.jsonl", line)


def _save(model: nn.Module, folder: Path) -> None:
    assert isinstance(model, PolicyNetwork)
    save_policy(model, folder)


def _load(model: nn.Module, folder: Path) -> None:
    model.load_state_dict(load_policy(folder).state_dict())


def _settings(student: Student) -> dict[str, Any]:
    play = {name: value for name, value in to_json_dict(student.play).items() if name != "threads"}
    return {
        "student": to_json_dict(student.config),
        "objective": to_json_dict(student.objective),
        "schedule": to_json_dict(student.schedule),
        "play": play,
        "rows": student.learning.rows,
    }


def note_scores(student: Student, lessons: Sequence[Lesson], hour: int) -> None:
    """After each `score_every` hours append the mean scores of some games to `scores.jsonl`, unless they are there.

    Their starts are not those of the final evaluation.
    """
    noted = {line["hour"] for line in noted_scores(student.run)}
    if not student.score_every or hour % student.score_every or hour in {0, *noted}:
        return
    network, means = student.newest(), {}
    for lesson in lessons:
        world = make_vector(lesson.task, student.score_episodes, threads=student.play.threads)
        agent = agent_of(lesson, network, student.play.epsilon, student.learning.seed, world)
        means[lesson.task] = float(play_episodes(world, agent, student.score_episodes, seed=0).mean())
        world.close()
    append_json_line(student.run / "scores.jsonl", {"hour": hour, "step": _step(student.run), "score": means})


def noted_scores(run: Path) -> list[dict[str, Any]]:
    """What `note_scores` wrote."""
    return read_json_lines(run / "scores.jsonl")


def play_seconds(run: Path) -> float:
    """Seconds that play took in all, the last time of each hour."""
    lines = read_json_lines(run / "play" / "seconds.jsonl")
    return float(sum({line["hour"]: line["seconds"] for line in lines}.values()))

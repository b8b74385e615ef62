"""Multi-DQN, the paper's baseline: one network learns all games by Q-learning, from as many frames as students see.

The network is the multi-task student's; each game has its own replay and head, and the game changes after each episode
of play (with several environments side by side, after as many episodes as there are environments). One optimizer
serves all. Killed and started again, it goes on from its newest checkpoint; what replays hold beyond it is forgotten.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.core.config import to_json_dict
from factotum.core.seeding import derive_seed
from factotum.distill.dqn import DQNConfig, DQNLearner
from factotum.distill.model import PolicyNetwork
from factotum.distill.q_learning import Updater
from factotum.distill.replay import TeacherReplay
from factotum.distill.store import load_policy, save_policy
from factotum.recipes.distill_tasks import Lesson
from factotum.recipes.distill_train import Student
from factotum.recipes.teacher_choice import Changes, configure
from factotum.training import checkpoint as files
from factotum.training.distributed import make_accelerator
from factotum.training.metrics import MetricsLog, WeightedMeans
from factotum.training.progress import Progress
from factotum.worlds.vector import VectorWorld, make_vector

CHECKPOINTS, LINES = 40, 100
"""Checkpoints and lines of metrics of a whole run."""


@dataclass
class Seat:
    """One game: its environments, what learns in them, and where they stand."""

    task: str
    world: VectorWorld
    learner: DQNLearner
    observation: np.ndarray
    score_B: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.score_B = np.zeros(self.world.count)

    def step(self) -> tuple[dict[str, Any], list[float]]:
        """One step of all environments: metrics, and the scores of games that ended."""
        moved = self.world.step(self.learner.act(self.observation))
        metrics = self.learner.observe(moved)
        self.observation = moved.observation
        self.score_B += np.where(moved.begun, 0.0, moved.reward)
        ended = moved.terminated | moved.truncated
        scores = self.score_B[ended].tolist()
        self.score_B[ended] = 0.0
        return metrics, scores


def train_baseline(student: Student, lessons: Sequence[Lesson], changes: Changes) -> PolicyNetwork:
    """Learn all games at once; the network.

    Args:
        student: run, sizes, hours of play of each game; its loss is not asked for.
        lessons: the games; their teachers do nothing here.
        changes: settings of DQN.

    Raises:
        UserError: games without numbered actions, changed settings, a damaged checkpoint, a loss that is not finite.
    """
    if student.config.outputs not in ("q", "logits"):
        raise UserError(f"multi-dqn: expected games with numbered actions, got {student.config.outputs}")
    config = configure("dqn", student.config.observation_shape, changes)
    assert isinstance(config, DQNConfig)
    run = _Run(student, lessons, config)
    with files.locked(student.run):
        files.remove_temporary(student.run)
        newest = files.latest_checkpoint(student.run)
        if newest is not None:
            run.resume(newest)
        run.advance()
    run.close()
    return run.network.eval()


def _of(name: str, index: int) -> bool:
    """Whether a tensor of a checkpoint is of a game: its target network, or the optimizer of all."""
    return name.startswith(f"{index}.") or ".target." not in name


class _Run:
    """All games, their turn and their files."""

    def __init__(self, student: Student, lessons: Sequence[Lesson], config: DQNConfig) -> None:
        self.student, self.config = student, replace(config, environments=student.play.environments)
        self.each = student.schedule.hours * student.schedule.steps
        seed = student.learning.seed
        torch.manual_seed(derive_seed(seed, "model"))
        device = make_accelerator(student.learning.device).device
        self.network = PolicyNetwork(replace(student.config, outputs="q")).to(device)
        updater = Updater(self.network, config.learning_rate, config.gradient_clip)
        self.seats = [self._seat(lesson, updater, seed) for lesson in lessons]
        self.turn, self.left = 0, student.play.environments
        self.window = WeightedMeans()
        self.seconds_before, self.started = 0.0, time.perf_counter()
        settings: dict[str, Any] = {"network": to_json_dict(self.network.config), "seed": seed}
        settings |= {"schedule": to_json_dict(student.schedule), "dqn": to_json_dict(self.config)}
        self.saved = files.plain_json({"config": settings, "settings": {"baseline": "multi-dqn"}})

    def _seat(self, lesson: Lesson, updater: Updater, seed: int) -> Seat:
        world = make_vector(lesson.task, self.config.environments, threads=self.student.play.threads)
        space, newest = world.observation_space, world.newest
        channels = None if newest is None else newest.stop - newest.start
        folder = self.student.run / "play" / lesson.task.replace("/", "__")
        capacity = min(self.config.capacity, self.each)
        # Room for what is played between two checkpoints, so that going back to one costs nothing of the window.
        spare = 2 * math.ceil(self.each / CHECKPOINTS) + 64 * world.count
        replay = TeacherReplay(
            folder, capacity, space.shape, channels, 0, dtype=str(space.dtype), task=lesson.task, spare=spare
        )
        own = derive_seed(seed, lesson.task)
        learner = DQNLearner(
            self.network, replay, self.config, steps=self.each, seed=own, task=lesson.task, updater=updater
        )
        return Seat(lesson.task, world, learner, world.reset(derive_seed(own, "episodes") % 2**31))

    @property
    def steps(self) -> int:
        """Steps of all games."""
        return sum(seat.learner.steps for seat in self.seats)

    def resume(self, folder: Path) -> None:
        """Take up a checkpoint."""
        tensors, state = files.read_checkpoint(folder)
        files.require_same(state["config"], self.saved["config"], where="config")
        files.require_same(state["settings"], self.saved["settings"], where="settings")
        files.warn_of_versions(state["versions"], folder)
        self.network.load_state_dict(load_policy(folder).state_dict())
        self.turn, self.left = state["turn"], state["left"]
        self.window, self.seconds_before = WeightedMeans(state["window"]), state["seconds"]
        for index, (seat, one) in enumerate(zip(self.seats, state["seats"], strict=True)):
            own = {
                name.removeprefix(f"{index}."): value for name, value in tensors.items() if _of(name, index)
            }
            seat.learner.load(own, one["learner"], goes_on=one["world"] is not None)
            if one["world"] is None:
                seat.observation = seat.world.reset(self._episodes_seed())
            else:
                seat.observation = seat.world.restore(one["world"])
                seat.score_B = np.array(one["score"])

    def _episodes_seed(self) -> int:
        return derive_seed(self.student.learning.seed, "episodes", self.steps) % 2**31

    def advance(self) -> None:
        """Play to the end."""
        total = self.each * len(self.seats)
        log = MetricsLog(self.student.run, self.steps, tensorboard=False)
        with Progress(total, "multi-dqn", done=self.steps) as bar:
            while any(seat.learner.steps < self.each for seat in self.seats):
                before = self.steps
                self._step()
                bar.advance(self.steps - before)
                if before * LINES // total != self.steps * LINES // total:
                    self._write_metrics(log)
                if before * CHECKPOINTS // total != self.steps * CHECKPOINTS // total:
                    self._save()
        log.close()
        if files.latest_checkpoint(self.student.run) != files.checkpoint_folder(self.student.run, self.steps):
            self._save()

    def _step(self) -> None:
        """One step of the game whose turn it is."""
        while self.left <= 0 or self.seats[self.turn].learner.steps >= self.each:
            self.turn, self.left = (self.turn + 1) % len(self.seats), self.config.environments
        seat = self.seats[self.turn]
        metrics, scores = seat.step()
        self.window.add_all(metrics, 1.0)
        for score in scores:
            self.window.add(f"score/{seat.task}", score)
        self.left -= len(scores)

    def _write_metrics(self, log: MetricsLog) -> None:
        means = self.window.means()
        for name, value in means.items():
            if not math.isfinite(value):
                raise UserError(f"{name}: expected finite numbers, got {value} at step {self.steps}")
        self.window = WeightedMeans()
        log.write({"step": self.steps, **means, "timing": {"seconds": self._seconds()}})

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {}
        seats = []
        for index, seat in enumerate(self.seats):
            own = seat.learner.tensors().items()
            # What is of the one optimizer is kept once.
            tensors |= {
                f"{index}.{name}" if name.startswith("target.") else name: value for name, value in own
            }
            one = {
                "learner": seat.learner.state(),
                "world": seat.world.snapshot(),
                "score": seat.score_B.tolist(),
            }
            seats.append(one)
        state = {
            **self.saved,
            "turn": self.turn,
            "left": self.left,
            "seconds": self._seconds(),
            "window": self.window.settled(),
            "seats": seats,
        }
        files.write_checkpoint(
            self.student.run,
            self.steps,
            write_model=lambda folder: save_policy(self.network, folder),
            tensors=tensors,
            state=state,
            keep=2,
        )

    def close(self) -> None:
        """Let worlds and files go."""
        for seat in self.seats:
            seat.learner.replay.close()
            seat.world.close()

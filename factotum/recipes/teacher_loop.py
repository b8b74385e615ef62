"""The loop that trains a teacher: a learner plays a world, checkpoints are kept whole, the best one is set aside.

What it does not know: how Q is learnt, which world it is. A run's folder holds `metrics.jsonl`, `checkpoints/` and
`best/`, the policy that scored highest when it was evaluated (what an online student follows).

Killed and started again, a run goes on from its newest checkpoint. Worlds that can be restored (MinAtar's) stand where
they stood, so that it ends with the weights it would have had. Others (Atari's) begin new episodes: what was played
since the checkpoint is lost, and results differ as those of another seed do.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factotum.core.checks import UserError
from factotum.core.config import to_json_dict
from factotum.core.seeding import derive_seed
from factotum.distill.model import PolicyNetwork
from factotum.distill.q_learning import QLearner
from factotum.distill.store import load_policy, save_policy
from factotum.recipes.teacher_best import best_score, set_aside
from factotum.recipes.teacher_tally import Tally
from factotum.training import checkpoint as files
from factotum.training.metrics import MetricsLog, WeightedMeans, read_metrics
from factotum.training.progress import Progress
from factotum.worlds.vector import VectorWorld

Evaluate = Callable[[PolicyNetwork], np.ndarray]
"""Scores of whole games that a network plays, the same starts each time."""

FREE_FIELDS = frozenset(
    {"checkpoint_every", "evaluate_every", "log_every", "keep_checkpoints", "time_limit_s"}
)
"""What may change between a run and its resumption."""


@dataclass(frozen=True)
class LoopConfig:
    """How long, and what is written when; counted in environment steps (an Atari step is four frames).

    >>> LoopConfig(steps=0)
    Traceback (most recent call last):
    factotum.core.checks.UserError: steps: expected 1 or more, got 0
    """

    steps: int
    """steps of all environments together"""
    checkpoint_every: int = 50_000
    """steps between checkpoints, at most what a kill loses"""
    evaluate_every: int = 100_000
    """steps between evaluations"""
    log_every: int = 10_000
    """steps between lines of metrics"""
    keep_checkpoints: int = 2
    """checkpoints that stay on disk, 0 for all"""
    time_limit_s: float | None = None
    """seconds after which to write a checkpoint and stop; schedules are not shortened"""
    lost_lives_end: bool = True
    """to the learner a lost life ends an episode, in worlds that count `lives`; scores go on to be of whole games"""
    seed: int = 0
    """of the world's episodes"""

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every", "evaluate_every", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.keep_checkpoints < 0:
            raise UserError(f"keep_checkpoints: expected 0 or more, got {self.keep_checkpoints}")


@dataclass(frozen=True)
class LoopResult:
    """Where a call of `train_teacher` ended.

    Attributes:
        step: environment steps in all.
        finished: false when the time limit came first.
        checkpoint: the newest checkpoint.
        seconds: of training, earlier calls counted too.
    """

    step: int
    finished: bool
    checkpoint: Path
    seconds: float


def train_teacher(
    world: VectorWorld,
    learner: QLearner,
    config: LoopConfig,
    run: Path,
    *,
    evaluate: Evaluate,
    settings: Mapping[str, Any] | None = None,
) -> LoopResult:
    """Let a learner play in a run's folder, going on from its newest checkpoint if there is one.

    Args:
        world: what is played; it is reset.
        learner: plays and learns; its network is changed in place.
        config: how long.
        run: the folder.
        evaluate: measures the network of a checkpoint.
        settings: JSON values of what else shapes the run; resuming with others is refused.

    Raises:
        UserError: changed settings, a damaged checkpoint, a full disk, numbers that are not finite.
    """
    loop = _Loop(world, learner, config, Path(run), evaluate, settings)
    with files.locked(loop.run):
        files.remove_temporary(loop.run)
        newest = files.latest_checkpoint(loop.run)
        observation = loop.begin() if newest is None else loop.resume(newest)
        if newest is None or loop.learner.steps < config.steps:
            newest = loop.advance(observation)
    return LoopResult(loop.learner.steps, loop.finished, newest, loop.seconds())


class _Loop:
    """One run."""

    def __init__(
        self,
        world: VectorWorld,
        learner: QLearner,
        config: LoopConfig,
        run: Path,
        evaluate: Evaluate,
        settings: Mapping[str, Any] | None,
    ) -> None:
        self.world, self.learner, self.config, self.run, self.evaluate = world, learner, config, run, evaluate
        self.saved = files.plain_json({"config": to_json_dict(config), "settings": dict(settings or {})})
        self.tally = Tally(world)
        self.window, self.seconds_before, self.started = WeightedMeans(), 0.0, time.perf_counter()
        self.spent = {"act": 0.0, "world": 0.0, "learn": 0.0}
        self.saved_at = 0

    @property
    def finished(self) -> bool:
        return self.learner.steps >= self.config.steps

    def seconds(self) -> float:
        """Of training, earlier calls counted too."""
        return self.seconds_before + time.perf_counter() - self.started

    # -- starting and resuming

    def begin(self) -> np.ndarray:
        """New episodes; the first observations."""
        observation = self.world.reset(derive_seed(self.config.seed, "episodes", self.learner.steps))
        self.tally.begin()
        return observation

    def resume(self, folder: Path) -> np.ndarray:
        """Take up a checkpoint, and evaluate it if a kill came before that; the observations to go on from."""
        tensors, state = files.read_checkpoint(folder)
        files.require_same(state["config"], self.saved["config"], ignored=FREE_FIELDS, where="config")
        files.require_same(state["settings"], self.saved["settings"], where="settings")
        files.warn_of_versions(state["versions"], folder)
        self.learner.network.load_state_dict(load_policy(folder).state_dict())
        self.learner.load(tensors, state["learner"], goes_on=state["world"] is not None)
        self.window, self.seconds_before = WeightedMeans(state["window"]), state["seconds"]
        self.saved_at = self.learner.steps
        lines = [line for line in read_metrics(self.run) if line["step"] <= self.learner.steps]
        evaluated = [line["step"] for line in lines if "evaluation" in line]
        if state["evaluate"] and self.learner.steps not in evaluated:
            with contextlib.closing(MetricsLog(self.run, self.learner.steps, tensorboard=False)) as log:
                self._evaluate(folder, log)
        if state["world"] is None:
            return self.begin()
        self.tally.load(state["tally"])
        return self.world.restore(state["world"])

    # -- training

    def advance(self, observation: np.ndarray) -> Path:
        """Play to the end or to the time limit; the last checkpoint."""
        self.log = MetricsLog(self.run, self.learner.steps, tensorboard=False)
        self.started = time.perf_counter()
        self.logged = (self.started, self.learner.steps)
        bar = Progress(self.config.steps, f"train {self.world.name}", done=self.learner.steps)
        with bar, contextlib.closing(self.log):
            while True:
                before = self.learner.steps
                observation = self._play(observation)
                last = self.learner.at_rest and (self.finished or self._time_is_up())
                if _crossed(before, self.learner.steps, self.config.log_every) or last:
                    self._write_metrics(bar)
                due = self.learner.steps - self.saved_at >= self.config.checkpoint_every
                folder = self._save(last) if last or (due and self.learner.at_rest) else None
                bar.advance(self.learner.steps - before)
                if last and folder is not None:
                    return folder

    def _play(self, observation: np.ndarray) -> np.ndarray:
        """One step of all environments."""
        times = [time.perf_counter()]
        action = self.learner.act(observation)
        times.append(time.perf_counter())
        moved = self.world.step(action)
        times.append(time.perf_counter())
        shown = self.tally.shown(moved) if self.config.lost_lives_end else moved
        self.window.add_all(self.learner.observe(shown), 1.0)
        times.append(time.perf_counter())
        for name, start, end in zip(self.spent, times, times[1:], strict=False):
            self.spent[name] += end - start
        for score, length in self.tally.count(moved):
            self.window.add("score", score)
            self.window.add("length", length)
        return moved.observation

    def _time_is_up(self) -> bool:
        limit = self.config.time_limit_s
        return limit is not None and time.perf_counter() - self.started >= limit

    # -- what is written

    def _write_metrics(self, bar: Progress) -> None:
        sums = self.window.settled()
        means = self.window.means()
        for name, value in means.items():
            if not math.isfinite(value):
                newest = files.latest_checkpoint(self.run)
                raise UserError(
                    f"{name}: expected finite numbers, got {value} at step {self.learner.steps}; "
                    f"the newest checkpoint is {newest}"
                )
        episodes = int(sums["score"][1]) if "score" in sums else 0
        self.window = WeightedMeans()
        (then, step), now = self.logged, time.perf_counter()
        self.logged, spent = (now, self.learner.steps), self.spent
        self.spent = dict.fromkeys(spent, 0.0)
        timing = {
            "seconds": self.seconds(),
            "steps_per_second": (self.learner.steps - step) / (now - then),
            **{f"{name}_share": part / (now - then) for name, part in spent.items()},
        }
        self.log.write({"step": self.learner.steps, **means, "episodes": episodes, "timing": timing})
        if "score" in means:
            bar.advance(0, amount=0, note=f"score {means['score']:.4g}")

    def _save(self, last: bool) -> Path:
        """A checkpoint; where an evaluation is due, that comes after it, so that a kill between them costs nothing."""
        step, before = self.learner.steps, time.perf_counter()
        evaluate = last or _crossed(self.saved_at, step, self.config.evaluate_every)
        snapshot = self.world.snapshot()
        state = {
            **self.saved,
            "config_hash": files.config_hash(self.saved),
            "seed": self.config.seed,
            "seconds": self.seconds(),
            "learner": self.learner.state(),
            "window": self.window.settled(),
            "evaluate": evaluate,
            "world": snapshot,
            "tally": self.tally.state(),
        }
        folder = files.write_checkpoint(
            self.run,
            step,
            write_model=lambda folder: save_policy(self.learner.network, folder),
            tensors=self.learner.tensors(),
            state=state,
            keep=self.config.keep_checkpoints,
        )
        self.saved_at = step
        if evaluate:
            self._evaluate(folder, self.log)
        # rates and times are those of training alone
        passed = time.perf_counter() - before
        self.logged, self.started = (self.logged[0] + passed, self.logged[1]), self.started + passed
        return folder

    def _evaluate(self, checkpoint: Path, log: MetricsLog) -> None:
        scores = self.evaluate(load_policy(checkpoint).to(next(self.learner.network.parameters()).device))
        step = self.learner.steps
        measured = {"evaluation": float(np.mean(scores)), "evaluation_std": float(np.std(scores))}
        best = best_score(self.run)
        better = best is None or measured["evaluation"] >= best
        if better:
            set_aside(checkpoint, self.run, {"step": step, **measured, "evaluation_episodes": len(scores)})
        # last: a kill before this line has the evaluation made again
        log.write({"step": step, **measured, "evaluation_episodes": len(scores), "best": better})


def _crossed(before: int, now: int, every: int) -> bool:
    return before // every != now // every

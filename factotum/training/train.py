"""The training loop: batches to updates, metrics and checkpoints; resumes bit-equal. Knows no model.

Randomness has no state to save: batches are a pure function of (seed, step, rank, micro step), and torch is
seeded from the same four at each micro step, so dropout after a resume draws what it would have drawn.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.core.config import to_json_dict
from factotum.core.seeding import derive_seed
from factotum.training import checkpoint as files
from factotum.training import distributed
from factotum.training.config import FREE_FIELDS, TrainConfig
from factotum.training.learner import Batch, Learner, MakeOptimizer, Objective
from factotum.training.metrics import MetricsLog, WeightedMeans, means_of, read_metrics
from factotum.training.prefetch import Prefetcher
from factotum.training.progress import Progress

BatchSource = Callable[[int, int, int, int], Batch]
ModelFiles = Callable[[nn.Module, Path], Any]
OnCheckpoint = Callable[[Path, int], Any]


class Feedback(Protocol):
    """What adapts to training, for example the sampling of tasks; the same on every rank.

    It is called with the means of step s, over all ranks, before any batch of step s + 2 is made.
    """

    def __call__(self, metrics: dict[str, float]) -> None:
        """Take note of a step's means."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All of its state as JSON values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up that state."""
        ...


@dataclass(frozen=True)
class TrainResult:
    """Where a call of `train` ended.

    Attributes:
        step: updates made in all.
        finished: false when the time limit came first.
        checkpoint: the newest checkpoint.
        metrics: the last line of metrics, empty when none was due yet.
    """

    step: int
    finished: bool
    checkpoint: Path
    metrics: dict[str, Any]


def train(
    *,
    make_model: Callable[[], nn.Module],
    batch_source: BatchSource,
    objective: Objective,
    config: TrainConfig,
    run: Path,
    save_model: ModelFiles,
    load_model: ModelFiles,
    on_checkpoint: OnCheckpoint | None = None,
    feedback: Feedback | None = None,
    settings: Mapping[str, Any] | None = None,
    stop: int | None = None,
    make_optimizer: MakeOptimizer | None = None,
) -> TrainResult:
    """Train a model in a run's folder, going on from its newest checkpoint if there is one.

    The gradient of an update is that of sum_i w_i loss_i / sum_i w_i over the micro batches i of all ranks,
    so how a batch is split over ranks and micro steps changes it by rounding alone.

    Args:
        make_model: makes the model; torch is seeded before.
        batch_source: (step, rank, world size, micro step) -> a batch with `.to(device)` and, if it has one,
            `tokens` (a number, for the rate). It runs in a thread, one batch ahead, so it must draw from
            generators of its own, never from torch's global one.
        objective: (model, batch) -> (mean loss, its weight, metrics). The weight is what the mean is over,
            for example the number of target tokens; where it is 0 the loss must be 0 too. A metric is a
            number, averaged with that weight, or a pair (number, weight).
        config: how to train.
        run: folder for `metrics.jsonl`, `checkpoints/` and `tensorboard/`.
        save_model: writes a model's files into a folder.
        load_model: reads them back into a model from `make_model`, bit-equal.
        on_checkpoint: called by the main process with each finished checkpoint folder and its step.
        feedback: adapts to the metrics of each step; called on every rank.
        settings: JSON values of what else shapes the run (model, data); resuming with others is refused.
        stop: updates in all after which to write a checkpoint and return, for what is done between updates; going
            on later is bit-equal to not having stopped, and the learning rate's schedule is not shortened.
        make_optimizer: (model, config) -> its optimizer; AdamW by default. The schedule sets its `lr`.

    Returns:
        Where it ended; at once if the run was finished, or at `stop`, before.

    Raises:
        UserError: changed settings, a damaged checkpoint, a full disk, a loss that is not finite.

    >>> import tempfile
    >>> from safetensors.torch import load_model, save_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = train(
    ...         make_model=lambda: nn.Linear(2, 1),
    ...         batch_source=lambda step, rank, world_size, micro: torch.ones(4, 2) * step,
    ...         objective=lambda model, x: (model(x).square().mean(), len(x), {}),
    ...         config=TrainConfig(steps=2, warmup_steps=0, tensorboard=False, device="cpu"),
    ...         run=Path(folder),
    ...         save_model=lambda model, path: save_model(model, str(path / "model.safetensors")),
    ...         load_model=lambda model, path: load_model(model, str(path / "model.safetensors")),
    ...     )
    >>> result.step, result.finished, result.checkpoint.name
    (2, True, 'step-00000002')
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    loop = _Loop(config, Path(run), make_model, batch_source, save_model, feedback, settings, stop)
    with files.locked(loop.run) if loop.main else contextlib.nullcontext():
        if loop.main:
            files.remove_temporary(loop.run)
        loop.accelerator.wait_for_everyone()
        newest = files.latest_checkpoint(loop.run)
        tensors = loop.read(newest) if newest is not None else None
        if newest is None or loop.step < loop.stop:
            loop.build(objective, load_model, newest, tensors, make_optimizer)
            newest = loop.advance(on_checkpoint)
    lines = read_metrics(loop.run)
    return TrainResult(loop.step, loop.step >= config.steps, newest, lines[-1] if lines else {})


class _Loop:
    """One run in one process. `step` counts the updates made."""

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        make_model: Callable[[], nn.Module],
        batch_source: BatchSource,
        save_model: ModelFiles,
        feedback: Feedback | None,
        settings: Mapping[str, Any] | None,
        stop: int | None,
    ):
        self.config, self.run, self.make_model, self.batch_source = config, run, make_model, batch_source
        self.save_model, self.feedback = save_model, feedback
        self.saved = files.plain_json({"config": to_json_dict(config), "settings": dict(settings or {})})
        self.accelerator = distributed.make_accelerator(config.device)
        self.main, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.stop = config.steps if stop is None else min(stop, config.steps)
        self.step, self.tokens, self.seconds_before = 0, 0, 0.0
        self.window = WeightedMeans()
        self.pending: tuple[int, dict[str, float]] | None = None

    # -- starting and resuming

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Read and check a checkpoint; take up all of it but the tensors."""
        tensors, state = files.read_checkpoint(folder)
        files.require_same(len(state["ranks"]), self.world_size, where="the number of processes")
        files.require_same(state["config"], self.saved["config"], ignored=FREE_FIELDS, where="config")
        files.require_same(state["settings"], self.saved["settings"], where="settings")
        files.require_same(state["feedback"] is not None, self.feedback is not None, where="having feedback")
        files.warn_of_versions(state["versions"], folder)
        own = state["ranks"][self.rank]
        self.step, self.tokens, self.seconds_before = state["step"], own["tokens"], state["seconds"]
        self.window = WeightedMeans(own["window"])
        if self.feedback is not None:
            self.pending = tuple(state["pending"])
            self.feedback.load_state_dict(state["feedback"])
        return tensors

    def build(
        self,
        objective: Objective,
        load_model: ModelFiles,
        folder: Path | None,
        tensors: dict[str, Tensor] | None,
        make_optimizer: MakeOptimizer | None,
    ) -> None:
        """Make the model and what updates it, from a checkpoint if there is one."""
        torch.manual_seed(derive_seed(self.config.seed, "model"))
        model = self.make_model()
        if folder is not None:
            load_model(model, folder)
        self.learner = Learner(model, objective, self.config, self.accelerator, make_optimizer)
        if tensors is not None:
            self.learner.load_tensors(tensors)

    # -- training

    def advance(self, on_checkpoint: OnCheckpoint | None) -> Path:
        """Train to the end or to the time limit; the last checkpoint."""
        config = self.config
        self.log = MetricsLog(self.run, self.step, config.tensorboard) if self.main else None
        self.bar = Progress(config.steps, "train", "tokens", done=self.step, quiet=not self.main)
        micros = config.gradient_accumulation
        self.batches = Prefetcher(self._make_batch, self.step, config.steps, micros, self._before_step)
        self.started = time.perf_counter()
        self.logged = (self.started, 0.0, self.step, self.tokens)
        with self.bar, self.batches, contextlib.closing(self.log) if self.log else contextlib.nullcontext():
            while True:
                self._update()
                last = self.step == self.stop or self._time_is_up()
                if self.step % config.log_every == 0 or self.step == config.steps:
                    self._write_metrics()
                if self.step % config.checkpoint_every == 0 or last:
                    folder = self._save()
                    if on_checkpoint is not None and self.main:
                        on_checkpoint(folder, self.step)
                if last:
                    return folder

    def _make_batch(self, step: int, micro: int) -> Batch:
        return self.batch_source(step, self.rank, self.world_size, micro).to(self.device)

    def _before_step(self, step: int) -> None:
        # The metrics of step s wait until step s + 2 is asked for: whether resumed or not, the same batches
        # are made after the same feedback.
        if self.feedback is not None and self.pending is not None and self.pending[0] <= step - 2:
            self.feedback(self.pending[1])
            self.pending = None

    def _update(self) -> None:
        config, means, tokens = self.config, WeightedMeans(), 0
        for micro in range(config.gradient_accumulation):
            batch = self.batches.take()
            seed = derive_seed(config.seed, "step", self.step, self.rank, micro)
            last = micro == config.gradient_accumulation - 1
            loss, weight, metrics = self.learner.accumulate(batch, seed=seed, last=last)
            for target in (self.window, means):
                target.add_all({"loss": loss, **metrics}, weight)
            tokens += int(getattr(batch, "tokens", 0))
        self.window.add("gradient_norm", self.learner.update(self.step))
        if self.feedback is not None:
            ranks = distributed.gather_all(self.accelerator, means.settled())
            self.pending = (self.step, means_of(ranks))
        self.step += 1
        self.tokens += tokens
        self.bar.advance(amount=tokens * self.world_size)

    def _time_is_up(self) -> bool:
        limit = self.config.time_limit_s
        if limit is None:
            return False
        up = torch.tensor(float(self.main and self._seconds() >= limit), device=self.device)
        return bool(distributed.sum_over_ranks(self.accelerator, up) > 0)

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    # -- what is written

    def _gather(self) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """Each rank's counts, and the means over them; both on every rank."""
        own = {"window": self.window.settled(), "tokens": self.tokens}
        ranks = distributed.gather_all(self.accelerator, own)
        means = means_of(rank["window"] for rank in ranks)
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(means.get(name, 0.0)):
                self._refuse(name, means[name])
        return ranks, means

    def _refuse(self, name: str, value: float) -> None:
        newest = files.latest_checkpoint(self.run)
        kept = f"the newest checkpoint is {newest}" if newest else "there is no checkpoint yet"
        causes = "a batch without targets, bad data, or too high a learning rate"
        found = f"expected finite numbers up to step {self.step}, got {value}"
        raise UserError(f"{name}: {found}: {causes}; {kept}")

    def _write_metrics(self) -> None:
        ranks, means = self._gather()
        self.window = WeightedMeans()
        tokens = sum(rank["tokens"] for rank in ranks)
        then, waited, step, tokens_then = self.logged
        now = time.perf_counter()
        self.logged = (now, self.batches.waited, self.step, tokens)
        passed = now - then
        share = (self.batches.waited - waited) / passed
        timing = {
            "seconds": self.seconds_before + self._seconds(),
            "steps_per_second": (self.step - step) / passed,
            "tokens_per_second": (tokens - tokens_then) / passed,
            "data_wait_share": share,
        }
        means["learning_rate"] = self.learner.learning_rate(self.step - 1)
        if self.log is not None:
            self.log.write({"step": self.step, **means, "tokens": tokens, "timing": timing})
        self.bar.advance(0, amount=0, note=f"loss {means['loss']:.4g}  data wait {share:.1%}")

    def _save(self) -> Path:
        ranks, _ = self._gather()
        write_model, tensors = self._model_writer(), self.learner.tensors()
        folder = files.checkpoint_folder(self.run, self.step)
        if self.main:
            state = {
                **self.saved,
                "config_hash": files.config_hash(self.saved),
                "seed": self.config.seed,
                "seconds": self.seconds_before + self._seconds(),
                "ranks": ranks,
                "feedback": self.feedback.state_dict() if self.feedback is not None else None,
                "pending": self.pending,
            }
            keep = self.config.keep_checkpoints
            files.write_checkpoint(
                self.run, self.step, write_model=write_model, tensors=tensors, state=state, keep=keep
            )
        self.accelerator.wait_for_everyone()
        return folder

    def _model_writer(self) -> Callable[[Path], Any]:
        if not self.config.sharded:
            return self._write_averaged
        with self.learner.averaged() as model:
            weights = distributed.full_state_dict(model)
        return lambda folder: self._write_gathered(weights, folder)

    def _write_averaged(self, folder: Path) -> None:
        with self.learner.averaged() as model:
            self.save_model(model, folder)

    def _write_gathered(self, weights: dict[str, Tensor], folder: Path) -> None:
        model = self.make_model()
        model.load_state_dict(weights)
        self.save_model(model, folder)

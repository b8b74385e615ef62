"""Meta-training: a pool of running worlds, unrolled a stretch at a time; resumes bit-equal. Knows no model.

A group of worlds is chosen, unrolled for some steps, the model updated once; the states of the worlds are carried
to the group's next turn (truncated unrolls), until their run ends and they are drawn anew. Runs end at different
times, so at any time worlds of all ages are in the pool. Randomness has no state to save: all of it is a pure
function of the seed and a place in training; what worlds carry is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from factotum.core.config import to_json_dict
from factotum.core.seeding import derive_seed, numpy_generator
from factotum.training import checkpoint as files
from factotum.training.distributed import make_accelerator
from factotum.training.meta_config import FREE_FIELDS, MetaConfig
from factotum.training.meta_gradient import Worlds, estimate
from factotum.training.meta_learner import MetaLearner
from factotum.training.meta_pool import Pool
from factotum.training.metrics import MetricsLog, WeightedMeans, read_metrics
from factotum.training.progress import Progress
from factotum.training.train import ModelFiles, OnCheckpoint, TrainResult

MakeWorlds = Callable[[torch.device], Sequence[Worlds]]


def meta_train(
    *,
    make_model: Callable[[], nn.Module],
    make_worlds: MakeWorlds,
    config: MetaConfig,
    run: Path,
    save_model: ModelFiles,
    load_model: ModelFiles,
    on_checkpoint: OnCheckpoint | None = None,
    unit: str = "steps",
    settings: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Meta-train a model in a run's folder, going on from its newest checkpoint if there is one.

    Args:
        make_model: makes the model; torch is seeded before.
        make_worlds: makes the groups of worlds on a device, the same ones each time.
        config: how to meta-train.
        run: folder for `metrics.jsonl` and `checkpoints/`.
        save_model: writes a model's files into a folder.
        load_model: reads them back into a model from `make_model`, bit-equal.
        on_checkpoint: called with each finished checkpoint folder and its step.
        unit: what the amounts of the unrolls count, for the progress bar.
        settings: JSON values of what else shapes the run (model, worlds); resuming with others is refused.

    Returns:
        Where it ended; at once if the run was finished before.

    Raises:
        UserError: changed settings, a damaged checkpoint, a full disk, weights that are not finite.

    Wichrowska et al., 2017 (arXiv 1703.04813), section 4; truncated unrolls as in their released code.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    loop = _Loop(config, Path(run), make_model, make_worlds, save_model, unit, settings)
    with files.locked(loop.run):
        files.remove_temporary(loop.run)
        newest = files.latest_checkpoint(loop.run)
        tensors = loop.read(newest) if newest is not None else None
        if newest is None or loop.step < config.steps:
            loop.build(load_model, newest, tensors)
            newest = loop.advance(on_checkpoint)
    lines = [line for line in read_metrics(loop.run) if "loss" in line]
    return TrainResult(loop.step, loop.step >= config.steps, newest, lines[-1] if lines else {})


class _Loop:
    """One run. `step` counts the updates made."""

    def __init__(
        self,
        config: MetaConfig,
        run: Path,
        make_model: Callable[[], nn.Module],
        make_worlds: MakeWorlds,
        save_model: ModelFiles,
        unit: str,
        settings: Mapping[str, Any] | None,
    ):
        self.config, self.run, self.make_model, self.make_worlds = config, run, make_model, make_worlds
        self.save_model, self.unit = save_model, unit
        self.saved = files.plain_json({"config": to_json_dict(config), "settings": dict(settings or {})})
        self.device = make_accelerator(config.device).device
        self.step, self.amount, self.seconds_before = 0, 0.0, 0.0
        self.window = WeightedMeans()
        self.runs: list[dict[str, list[int]]] = []

    # -- starting and resuming

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Read and check a checkpoint; take up all of it but the tensors."""
        tensors, state = files.read_checkpoint(folder)
        files.require_same(state["config"], self.saved["config"], ignored=FREE_FIELDS, where="config")
        files.require_same(state["settings"], self.saved["settings"], where="settings")
        files.warn_of_versions(state["versions"], folder)
        self.step, self.amount, self.seconds_before = state["step"], state["amount"], state["seconds"]
        self.window, self.runs = WeightedMeans(state["window"]), state["runs"]
        return tensors

    def build(self, load_model: ModelFiles, folder: Path | None, tensors: dict[str, Tensor] | None) -> None:
        """Make the model, what updates it and the worlds, from a checkpoint if there is one."""
        torch.manual_seed(derive_seed(self.config.seed, "model"))
        model = self.make_model()
        if folder is not None:
            load_model(model, folder)
        self.learner = MetaLearner(model.to(self.device), self.config)
        self.pool = Pool(self.make_worlds(self.device), self.learner.parameters, self.config)
        if tensors is not None:
            self.learner.load_tensors(tensors)
            self.pool.load(tensors, self.runs)

    # -- training

    def advance(self, on_checkpoint: OnCheckpoint | None) -> Path:
        """Train to the end or to the time limit; the last checkpoint."""
        config = self.config
        self.log = MetricsLog(self.run, self.step, tensorboard=False)
        self.bar = Progress(config.steps, "meta-train", self.unit, done=self.step)
        self.started = time.perf_counter()
        self.logged = (self.started, self.step, self.amount)
        with self.bar, contextlib.closing(self.log):
            while True:
                self._update()
                last = self.step == config.steps or self._time_is_up()
                if self.step % config.log_every == 0 or self.step == config.steps:
                    self._write_metrics()
                if self.step % config.checkpoint_every == 0 or last:
                    folder, before = self._save(), time.perf_counter()
                    if on_checkpoint is not None:
                        on_checkpoint(folder, self.step)
                    # rates are those of training alone
                    self.logged = (self.logged[0] + time.perf_counter() - before, *self.logged[1:])
                if last:
                    return folder

    def _update(self) -> None:
        groups, before = self.config.groups, self.amount
        totals = [torch.zeros_like(p) for p in self.learner.parameters]
        for part in range(groups):
            torch._foreach_add_(totals, self._estimate(part), alpha=1 / groups)
        self.window.add_all(self.learner.update(totals, self.step), 1.0)
        self.step += 1
        self.bar.advance(amount=self.amount - before)

    def _estimate(self, part: int) -> list[Tensor]:
        """The meta-gradient of one group, which goes on by one unroll."""
        place = (self.config.seed, self.step, part)
        draw = numpy_generator(*place, "unroll")
        done = self.step / self.config.steps
        worlds, running, call = self.pool.begin(draw, done, derive_seed(*place, "inside"))
        found = estimate(self.learner.model, worlds, running, call, self.config)
        running.count(call.steps)
        self.amount += found.amount
        means = {"age": sum(running.age) / len(running.age), "unroll_steps": float(call.steps)}
        self.window.add_all({"loss": found.unrolled.loss, **means, **found.unrolled.metrics}, 1.0)
        return found.gradients

    def _time_is_up(self) -> bool:
        limit = self.config.time_limit_s
        return limit is not None and time.perf_counter() - self.started >= limit

    # -- what is written

    def _write_metrics(self) -> None:
        means = self.window.means()
        self.window = WeightedMeans()
        then, step, amount = self.logged
        now = time.perf_counter()
        self.logged = (now, self.step, self.amount)
        timing = {
            "seconds": self.seconds_before + now - self.started,
            "steps_per_second": (self.step - step) / (now - then),
            "amount_per_second": (self.amount - amount) / (now - then),
        }
        means["learning_rate"] = self.learner.learning_rate(self.step - 1)
        self.log.write({"step": self.step, **means, "amount": self.amount, "timing": timing})
        self.bar.advance(0, amount=0, note=f"loss {means['loss']:.4g}")

    def _save(self) -> Path:
        self.learner.require_finite(self.run)
        state = {
            **self.saved,
            "config_hash": files.config_hash(self.saved),
            "seed": self.config.seed,
            "seconds": self.seconds_before + time.perf_counter() - self.started,
            "amount": self.amount,
            "window": self.window.settled(),
            "runs": self.pool.runs(),
        }
        return files.write_checkpoint(
            self.run,
            self.step,
            write_model=self._write_model,
            tensors={**self.learner.tensors(), **self.pool.tensors()},
            state=state,
            keep=self.config.keep_checkpoints,
        )

    def _write_model(self, folder: Path) -> None:
        with self.learner.averaged() as model:
            self.save_model(model, folder)

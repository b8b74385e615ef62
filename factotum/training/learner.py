"""A model with its optimizer: gradients over micro batches and ranks, one update. Knows no files."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from factotum.training import distributed
from factotum.training.config import TrainConfig
from factotum.training.metrics import Metric
from factotum.training.schedule import learning_rate_at, make_optimizer, set_learning_rate

Batch = Any
Objective = Callable[[nn.Module, Batch], tuple[Tensor, Tensor | float, Mapping[str, Metric]]]
MakeOptimizer = Callable[[nn.Module, TrainConfig], torch.optim.Optimizer]


class Learner:
    """Model, wrapper for the ranks, optimizer and moving average of the weights.

    Args:
        model: on the CPU, equal on all ranks; changed in place.
        objective: (model, batch) -> (mean loss, its weight, metrics).
        config: how to train.
        accelerator: from `make_accelerator`.
        make_optimizer: (model, config) -> its optimizer; AdamW by default.

    >>> learner = Learner(
    ...     nn.Linear(1, 1), lambda model, x: (model(x).square().mean(), len(x), {}),
    ...     TrainConfig(steps=1, warmup_steps=0), distributed.make_accelerator("cpu"))
    >>> loss, weight, metrics = learner.accumulate(torch.ones(4, 1), seed=0, last=True)
    >>> float(weight), float(learner.update(0)) > 0
    (4.0, True)
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        config: TrainConfig,
        accelerator: Accelerator,
        make_optimizer: MakeOptimizer | None = None,
    ):
        self.model, self.config, self.accelerator = model.train(), config, accelerator
        if config.compile_model and compiler_works(accelerator.device):
            model.compile()
        self.forward = distributed.parallelise(accelerator, _Forward(model, objective), config.sharded)
        self.named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.parameters = [parameter for _, parameter in self.named]
        self.optimizer = (make_optimizer or adamw)(model, config)
        self.average = [distributed.local(p.detach()).clone() for p in self.parameters if config.ema_decay]
        self.weight = torch.zeros((), device=accelerator.device)

    def accumulate(self, batch: Batch, *, seed: int, last: bool) -> tuple[Tensor, Tensor, dict[str, Metric]]:
        """Add a micro batch's gradient.

        Args:
            batch: on the device.
            seed: for torch, so for dropout.
            last: whether the update follows.

        Returns:
            Loss, weight, metrics; all detached.
        """
        seed_device(self.accelerator.device, seed)
        with distributed.synchronised(self.forward, last):
            bf16 = self.config.precision == "bf16"
            with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=bf16):
                loss, weight, metrics = self.forward(batch)
            (loss * weight).backward()
        self.weight += weight
        return loss.detach(), weight, metrics

    def update(self, step: int) -> Tensor:
        """Step the optimizer with the gradient of sum(weight x loss) / sum(weight); the gradient's norm.

        Args:
            step: updates made before.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        # DDP and FSDP average over ranks; wanted is the sum over ranks over the sum of weights.
        total = distributed.sum_over_ranks(self.accelerator, self.weight)
        torch._foreach_mul_([distributed.local(g) for g in gradients], self.accelerator.num_processes / total)
        norm = nn.utils.get_total_norm(gradients)
        if self.config.gradient_clip:
            nn.utils.clip_grads_with_norm_(self.parameters, self.config.gradient_clip, norm)
        set_learning_rate(self.optimizer, self.learning_rate(step))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.weight.zero_()
        self._update_average(step)
        return distributed.full(norm)

    def learning_rate(self, step: int) -> float:
        """The rate of the update after `step` updates."""
        config = self.config
        return learning_rate_at(
            step,
            steps=config.steps,
            peak=config.learning_rate,
            warmup_steps=config.warmup_steps,
            initial=config.initial_learning_rate,
            final_ratio=config.final_learning_rate_ratio,
        )

    def _update_average(self, step: int) -> None:
        if self.average:
            # A short memory early on: the first weights are random.
            decay = min(self.config.ema_decay, (1 + step) / (10 + step))
            current = [distributed.local(p.detach()) for p in self.parameters]
            torch._foreach_lerp_(self.average, current, 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its moving average as weights, where it has one, inside the block alone."""
        current = [distributed.local(p.detach()) for p in self.parameters] if self.average else []
        raw = [tensor.clone() for tensor in current]
        for tensor, average in zip(current, self.average, strict=True):
            tensor.copy_(average)
        try:
            yield self.model
        finally:
            for tensor, weights in zip(current, raw, strict=True):
                tensor.copy_(weights)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside the model, whole and by name; a collective call when sharded."""
        tensors = distributed.optimizer_tensors(self.model, self.optimizer)
        if self.average:
            tensors |= {f"weights/{name}": distributed.full(p.detach()).cpu() for name, p in self.named}
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave; the model itself (its moving average, if kept) is loaded already."""
        moments = {name: tensor for name, tensor in tensors.items() if name.startswith("optimizer/")}
        distributed.load_optimizer_tensors(self.model, self.optimizer, moments)
        if self.average:
            for name, parameter in self.named:
                distributed.copy_full(parameter.detach(), tensors[f"weights/{name}"])


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer where none is asked for."""
    return make_optimizer(
        model,
        learning_rate=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


class _Forward(nn.Module):
    """Calls the objective inside the wrapper of DDP or FSDP, so that it gets the model itself."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Metric]]:
        loss, weight, metrics = self.objective(self.model, batch)
        weight = torch.as_tensor(weight, dtype=torch.float32, device=loss.device).detach()
        # Detached, or DDP would wait for gradients that come through them.
        return loss.float(), weight, {name: _detached(metric) for name, metric in metrics.items()}


def _detached(metric: Any) -> Any:
    if isinstance(metric, tuple):
        return tuple(_detached(part) for part in metric)
    return metric.detach() if isinstance(metric, Tensor) else metric


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the CPU's generator and the device's; `torch.manual_seed` takes 2 ms where a device is absent."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def compiler_works(device: torch.device) -> bool:
    """Try `torch.compile` on one line; where that fails, warn and say so."""
    fresh = time.time_ns() % 1_000_003  # a program that no cache holds from when there was a compiler
    try:
        torch.compile(lambda x: x.sin() + fresh)(torch.ones(4, device=device))
    except Exception as error:  # compilers fail in every way there is
        reason = str(error).strip().splitlines()[0][:200]
        warnings.warn(f"compile_model: no working compiler, going on uncompiled ({reason})", stacklevel=2)
        torch._dynamo.reset()
        return False
    return True

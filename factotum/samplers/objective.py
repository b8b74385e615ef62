"""What is it trained to do? Find low values in few evaluations of functions that it can be differentiated through.

Local letters: B functions in a batch, D dimensions, T evaluations. What it does not know: where functions come
from. They are arguments, any batched callable x_BD -> y_B that is differentiable in x.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.core.gaussian_process import Kernel, sequential_posterior
from factotum.core.seeding import torch_generator
from factotum.losses.trajectory import (
    expected_improvement,
    observed_improvement,
    smooth_minimum,
    summed_loss,
)
from factotum.samplers.rollout import Rollout, rollout

Loss = Literal["oi", "ei", "sum", "best", "soft"]
LOSSES: tuple[Loss, ...] = ("oi", "ei", "sum", "best", "soft")


class Process(NamedTuple):
    """The Gaussian process that a batch of functions was drawn from, as L_EI must know it.

    Attributes:
        kernel: of `factotum.core.gaussian_process`.
        lengthscale_BD: its lengthscales.
        variance_B: its variance; the mean is 0.
    """

    kernel: Kernel
    lengthscale_BD: Tensor
    variance_B: Tensor


@dataclass(frozen=True)
class MetaBatch:
    """Functions, and how they are to be searched.

    Attributes:
        functions: x_BD -> value_B, differentiable; with `.to(device)`, and `noise_B` if values are noisy.
        batch_size: B.
        dimensions: D.
        evaluations: T.
        workers: simultaneous evaluations.
        seed: of what is random in the rollout.
        process: what the functions were drawn from, where L_EI is wanted.
    """

    functions: Any
    batch_size: int
    dimensions: int
    evaluations: int
    workers: int = 1
    seed: int = 0
    process: Process | None = None

    @property
    def tokens(self) -> int:
        """Evaluations in all, for the rate shown."""
        return self.batch_size * self.evaluations

    def to(self, device: torch.device) -> MetaBatch:
        """The same on a device."""
        process = self.process
        if process is not None:
            scale, variance = process.lengthscale_BD.to(device), process.variance_B.to(device)
            process = Process(process.kernel, scale, variance)
        return replace(self, functions=self.functions.to(device), process=process)


@dataclass(frozen=True)
class SamplerObjective:
    r"""$E_{f \sim p(f)} L(f, \theta)$ of the closed loop, by gradients through time and through f.

    Args:
        loss: observed improvement (oi), expected improvement under the process that drew the functions (ei),
            mean value (sum, over T so that horizons weigh the same), mean best value so far (best), or a smooth
            minimum of the values (soft).
        detach_incumbent: no gradient into the value to improve on (oi, ei); see `observed_improvement`. With it,
            searches learnt to run into a corner of the cube.
        first: what the first evaluation counts (oi); see there.
        temperature: of the smooth minimum (soft).
        sum_weight: weight of the mean value added to the loss: a gradient at every step, also without improvement.
        truncation: see `rollout`.
        gradient_limit: largest norm of the gradient of a function's own loss that flows into one proposal, 0 for no
            limit. Searches of steep functions are chaotic: without it the gradient of 50 evaluations grew to 1e8.

    Returns of a call: mean loss over functions, its weight B, metrics: means of the first, of all, of the best.

    Chen et al., 2017 (arXiv 1611.03824), section 2.1.

    Differs from the paper: `best`, `soft`, `sum_weight`, `truncation`, `gradient_limit` are ours; its losses are
    oi, ei and sum.
    """

    loss: Loss = "oi"
    detach_incumbent: bool = False
    first: Literal["value", "drop"] = "value"
    temperature: float = 0.1
    sum_weight: float = 0.0
    truncation: int = 0
    gradient_limit: float = 5.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UserError(f"loss: expected one of {', '.join(LOSSES)}, got {self.loss!r}")
        for name in ("temperature", "sum_weight", "truncation", "gradient_limit"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.temperature == 0:
            raise UserError("temperature: expected a number above 0, got 0")

    def __call__(self, model: nn.Module, batch: MetaBatch) -> tuple[Tensor, float, dict[str, Tensor]]:
        """Loss of one batch."""
        done = rollout(
            model,
            batch.functions,
            batch.evaluations,
            batch_size=batch.batch_size,
            dimensions=batch.dimensions,
            generator=torch_generator(batch.seed, "rollout"),
            workers=batch.workers,
            noise_B=getattr(batch.functions, "noise_B", None),
            truncation=self.truncation,
            gradient_limit=self.gradient_limit / batch.batch_size,
        )
        value_BT = done.value_BT
        loss_B = self._loss(done, batch)
        if self.sum_weight:
            loss_B = loss_B + self.sum_weight * value_BT.mean(1)
        metrics = {
            "value/first": value_BT[:, 0].mean(),
            "value/mean": value_BT.mean(),
            "value/best": value_BT.amin(1).mean(),
        }
        return loss_B.mean(), float(batch.batch_size), metrics

    def _loss(self, done: Rollout, batch: MetaBatch) -> Tensor:
        value_BT = done.value_BT
        if self.loss == "sum":
            return summed_loss(value_BT) / batch.evaluations
        if self.loss == "best":
            return summed_loss(value_BT.cummin(1).values) / batch.evaluations
        if self.loss == "ei":
            return self._minus_expected_improvement(done, batch)
        if self.loss == "soft":
            return smooth_minimum(value_BT, self.temperature)
        return observed_improvement(value_BT, detach_incumbent=self.detach_incumbent, first=self.first)

    def _minus_expected_improvement(self, done: Rollout, batch: MetaBatch) -> Tensor:
        r"""$L_{EI} = -\sum_{t \ge 2} EI(x_t | y_{1:t-1})$."""
        if batch.process is None:
            raise UserError("loss ei: expected functions of one known Gaussian process (the paper's prior)")
        noise_B = getattr(batch.functions, "noise_B", None)
        # A little noise bounds the gradient of the factor where points nearly coincide.
        floor_B = 1e-3 * batch.process.variance_B.sqrt()
        mean_BT, deviation_BT = sequential_posterior(
            done.x_BTD,
            done.y_BT,
            noise_B=floor_B if noise_B is None else torch.maximum(noise_B, floor_B),
            **batch.process._asdict(),
        )
        best_BT = done.y_BT.cummin(1).values[:, :-1]
        best_BT = best_BT.detach() if self.detach_incumbent else best_BT
        return -expected_improvement(mean_BT[:, 1:], deviation_BT[:, 1:], best_BT).sum(1)

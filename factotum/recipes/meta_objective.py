"""What meta-training makes small: log losses relative to where a run started.

Local letters: B problems, T steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from factotum.core.checks import UserError

EPSILON = 1e-6


class Curve(NamedTuple):
    """Losses of an unroll after each step, those at the start of the runs, and which were measured."""

    loss_TB: Tensor
    first_B: Tensor
    measured_TB: Tensor


@dataclass(frozen=True)
class UnrollObjective:
    r"""What an unroll is to make small: the mean over steps of $\log(l_t / (l_0 + \epsilon) + \epsilon)$.

    l_0 is the loss where the run started, not the unroll. Losses are those of all data, without noise; the
    gradients that the core sees are those of minibatches, with noise. Every kind of problem counts the same,
    however many copies of it there are.

    Args:
        second_derivatives: through the gradients too, as in the paper; else they count as given.
        divergence_penalty: weight of $\max(0, \log l_t/l_0)$ added: steps above the start count more.
        give_up: a run ends when its loss is this many times that at its start, or not finite.
        measure_every: steps between losses that cost more than gradients, those of minibatch problems.
        rescaled: share of runs in other units.
        parameter_scale: standard deviation of the logarithm of these units, one for each tensor.
        loss_scale: of the logarithm of a factor on all gradients of a problem.

    Wichrowska et al., 2017 (arXiv 1703.04813), section 4.

    Differs from the paper: no second derivatives by default; penalty, giving up and units are ours (units as in
    Lv et al., 2017, arXiv 1703.03633, and in the corpus's own rescaled problems).
    """

    second_derivatives: bool = False
    divergence_penalty: float = 0.5
    give_up: float = 1e6
    measure_every: int = 4
    rescaled: float = 0.5
    parameter_scale: float = 1.5
    loss_scale: float = 3.0

    def __post_init__(self) -> None:
        for name in ("divergence_penalty", "parameter_scale", "loss_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name}: expected 0 or more, got {getattr(self, name)}")
        if self.measure_every < 1:
            raise UserError(f"measure_every: expected 1 or more, got {self.measure_every}")
        if not 0 <= self.rescaled <= 1:
            raise UserError(f"rescaled: expected a share between 0 and 1, got {self.rescaled}")
        if not self.give_up > 1:
            raise UserError(f"give_up: expected more than 1, got {self.give_up}")

    def __call__(self, loss_TB: Tensor, first_B: Tensor, measured_TB: Tensor) -> tuple[Tensor, Tensor]:
        """Objective of each problem, and whether it has one (not if its first loss was not finite).

        Args:
            loss_TB: losses after each step; those after one that is not finite do not count.
            first_B: losses at the start of the run.
            measured_TB: which of the losses were measured.
        """
        finite_TB = (loss_TB.isfinite() & first_B.isfinite()).cumprod(0).bool()
        good_TB = finite_TB & measured_TB
        first_B = torch.where(first_B.isfinite(), first_B, 1.0)
        log_TB = log_loss(torch.where(good_TB, loss_TB, 1.0), first_B)
        if self.divergence_penalty:
            log_TB = log_TB + self.divergence_penalty * log_TB.clamp_min(0)
        count_B = good_TB.sum(0)
        sum_B = torch.where(good_TB, log_TB, 0.0).sum(0)
        return sum_B / count_B.clamp_min(1), count_B > 0


def log_loss(loss: Tensor, first: Tensor) -> Tensor:
    r"""$\log(l / (l_0 + \epsilon) + \epsilon)$.

    >>> log_loss(torch.tensor([1.0, 0.0]), torch.tensor(1.0)).round(decimals=2)
    tensor([  0.0000, -13.8200])
    """
    return (loss / (first + EPSILON) + EPSILON).log()

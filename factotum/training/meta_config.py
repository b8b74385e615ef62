"""How to meta-train: two dataclasses, and the lengths of unrolls and runs that they give. Knows no model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from factotum.core.checks import UserError

# What may change between a run and its resumption without changing the weights.
FREE_FIELDS = frozenset({"checkpoint_every", "keep_checkpoints", "threads", "time_limit_s"})


@dataclass(frozen=True)
class Unrolls:
    r"""Lengths: $\min(K_0 + \mathrm{Exp}(m), K_{max})$ steps an unroll, $1 + \mathrm{Exp}(M)$ unrolls a run.

    States are carried from an unroll to the next one of the same run (truncated backpropagation). The mean
    number of unrolls grows over the curriculum, log-linearly from its first to its last value.

    Wichrowska et al., 2017 (arXiv 1703.04813): 50 + Exp(200) steps, 1 + Exp(40) unrolls, no curriculum.

    Differs from the paper: shorter unrolls, more of them; runs last as long.

    >>> Unrolls(first_run=2, run=50, curriculum=0.5).mean_run(0.25)
    10.0
    """

    shortest: int = 15
    """least steps of an unroll (K_0)"""
    mean: float = 20.0
    """mean of the exponential share of its steps (m)"""
    longest: int = 100
    """most steps of an unroll (K_max): bounds the memory"""
    run: float = 100.0
    """mean of the exponential share of the unrolls of a run (M)"""
    first_run: float = 3.0
    """the same when training starts"""
    curriculum: float = 0.5
    """share of training over which M grows from its first value"""

    def __post_init__(self) -> None:
        _require(self.shortest >= 1, "shortest", "1 or more", self.shortest)
        _require(self.longest >= self.shortest, "longest", f"{self.shortest} or more", self.longest)
        for name in ("mean", "run", "first_run"):
            _require(0 <= getattr(self, name) < math.inf, name, "0 or more", getattr(self, name))
        _require(0 <= self.curriculum <= 1, "curriculum", "a share between 0 and 1", self.curriculum)

    def steps(self, generator: np.random.Generator) -> int:
        """Steps of an unroll."""
        return min(self.shortest + round(generator.exponential(self.mean)), self.longest)

    def mean_run(self, done: float) -> float:
        """Mean of the exponential share of a run's unrolls when a share of training is done."""
        grown = min(1.0, done / self.curriculum) if self.curriculum else 1.0
        if min(self.first_run, self.run) <= 0:
            return self.run if grown >= 1 else self.first_run
        return self.first_run * (self.run / self.first_run) ** grown

    def run_unrolls(self, done: float, generator: np.random.Generator) -> int:
        """Unrolls of a run that starts when a share of training is done."""
        return 1 + round(generator.exponential(self.mean_run(done)))


@dataclass(frozen=True)
class MetaConfig:
    """How to meta-train.

    >>> MetaConfig(estimator="gradient")
    Traceback (most recent call last):
    factotum.core.checks.UserError: estimator: expected bptt, es or pes, got gradient
    """

    steps: int = 10_000
    """updates in all"""
    estimator: Literal["bptt", "es", "pes"] = "bptt"
    """gradient through time, or by antithetic perturbations of the weights: of each unroll, or persistent ones"""
    groups: int = 1
    """groups of worlds in an update; es and pes draw one perturbation for each"""
    sigma: float = 0.01
    """standard deviation of the perturbations of es and pes"""
    unrolls: Unrolls = field(default_factory=Unrolls)
    meta_optimizer: Literal["adam", "rmsprop"] = "adam"
    """rmsprop is the paper's: decay .9, epsilon 1e-20, mean square from 1; its learning rate is 1e-6"""
    learning_rate: float = 3e-3
    """highest learning rate"""
    final_learning_rate_ratio: float = 0.03
    """last learning rate over highest, by half a cosine"""
    warmup_steps: int = 100
    """updates of linear warm-up"""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's decay rates of the two moments"""
    element_clip: float = 0.0
    """largest size of an entry of the meta-gradient, 0 for none; the paper's is 1e4"""
    norm_clip: float = 1.0
    """largest norm of the meta-gradient, 0 for none"""
    ema_decay: float = 0.0
    """decay of a moving average of the weights that is saved as the model, 0 for none"""
    checkpoint_every: int = 1000
    """updates between checkpoints"""
    keep_checkpoints: int = 2
    """checkpoints that stay on disk, 0 for all"""
    log_every: int = 20
    """updates between lines of metrics"""
    seed: int = 0
    """seed of initial weights and of all that is drawn"""
    threads: int = 0
    """torch's CPU threads, 0 for torch's own choice"""
    device: Literal["auto", "cpu"] = "auto"
    """"cpu" keeps off an accelerator that is there"""
    time_limit_s: float | None = None
    """seconds after which to write a checkpoint and stop; the schedule is not shortened"""

    def __post_init__(self) -> None:
        for name in ("steps", "groups", "checkpoint_every", "log_every"):
            _require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        for name in ("learning_rate", "element_clip", "norm_clip", "threads", "keep_checkpoints"):
            _require(0 <= getattr(self, name) < math.inf, name, "0 or more", getattr(self, name))
        between = f"0 or more and less than steps ({self.steps})"
        _require(0 <= self.warmup_steps < self.steps, "warmup_steps", between, self.warmup_steps)
        _require(0 <= self.ema_decay < 1, "ema_decay", "0 or more and less than 1", self.ema_decay)
        _require(0 < self.sigma < math.inf, "sigma", "a number above 0", self.sigma)
        _require(self.estimator in ("bptt", "es", "pes"), "estimator", "bptt, es or pes", self.estimator)
        known = self.meta_optimizer in ("adam", "rmsprop")
        _require(known, "meta_optimizer", "adam or rmsprop", self.meta_optimizer)
        _require(self.device in ("auto", "cpu"), "device", "auto or cpu", self.device)


def _require(holds: bool, name: str, expected: str, got: Any) -> None:
    if not holds:
        raise UserError(f"{name}: expected {expected}, got {got}")

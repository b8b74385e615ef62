"""How to train: one dataclass. Knows no model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from factotum.core.checks import UserError

# What may change between a run and its resumption without changing the weights.
FREE_FIELDS = frozenset({"checkpoint_every", "keep_checkpoints", "threads", "time_limit_s", "tensorboard"})


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the schedule's defaults are Gato's.

    >>> TrainConfig(steps=100, warmup_steps=100)
    Traceback (most recent call last):
    factotum.core.checks.UserError: warmup_steps: expected 0 or more and less than steps (100), got 100
    """

    steps: int = 1_000_000
    """updates in all"""
    learning_rate: float = 1e-4
    """highest learning rate"""
    final_learning_rate_ratio: float = 0.1
    """last learning rate over highest"""
    warmup_steps: int = 15_000
    """updates of linear warm-up"""
    initial_learning_rate: float = 1e-7
    """learning rate of the first update"""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments"""
    eps: float = 1e-8
    """AdamW's epsilon"""
    weight_decay: float = 0.1
    """decoupled weight decay of matrices; norms, biases and 1-d tensors have none"""
    gradient_clip: float = 1.0
    """largest gradient norm, 0 for none (the paper states none)"""
    gradient_accumulation: int = 1
    """micro batches in an update"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 computes under autocast; weights and moments stay fp32"""
    compile_model: bool = False
    """compile the model's forward with torch.compile where a compiler is there"""
    sharded: bool = False
    """under torchrun: split weights and moments over the processes (FSDP) in place of copies (DDP)"""
    ema_decay: float = 0.0
    """decay of a moving average of the weights that is saved as the model, 0 for none"""
    checkpoint_every: int = 1000
    """updates between checkpoints"""
    keep_checkpoints: int = 2
    """checkpoints that stay on disk, 0 for all"""
    log_every: int = 50
    """updates between lines of metrics"""
    seed: int = 0
    """seed of initial weights and of dropout"""
    threads: int = 0
    """torch's CPU threads, 0 for torch's own choice"""
    device: Literal["auto", "cpu"] = "auto"
    """"cpu" keeps off an accelerator that is there"""
    time_limit_s: float | None = None
    """seconds after which to write a checkpoint and stop; the schedule is not shortened"""
    tensorboard: bool = True
    """write TensorBoard events too, where tensorboard is installed"""

    def __post_init__(self) -> None:
        for name in ("steps", "gradient_accumulation", "checkpoint_every", "log_every"):
            _require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        for name in ("learning_rate", "initial_learning_rate", "weight_decay", "gradient_clip", "threads"):
            _require(0 <= getattr(self, name) < math.inf, name, "0 or more", getattr(self, name))
        between = f"0 or more and less than steps ({self.steps})"
        _require(0 <= self.warmup_steps < self.steps, "warmup_steps", between, self.warmup_steps)
        _require(0 <= self.ema_decay < 1, "ema_decay", "0 or more and less than 1", self.ema_decay)
        _require(self.keep_checkpoints >= 0, "keep_checkpoints", "0 or more", self.keep_checkpoints)
        _require(self.precision in ("fp32", "bf16"), "precision", "fp32 or bf16", self.precision)
        _require(self.device in ("auto", "cpu"), "device", "auto or cpu", self.device)


def _require(holds: bool, name: str, expected: str, got: Any) -> None:
    if not holds:
        raise UserError(f"{name}: expected {expected}, got {got}")

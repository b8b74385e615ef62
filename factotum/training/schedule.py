"""The learning-rate schedule and the optimizer: AdamW, linear warm-up, cosine decay. Knows no model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


def learning_rate_at(
    step: int,
    *,
    steps: int,
    peak: float,
    warmup_steps: int = 15_000,
    initial: float = 1e-7,
    final_ratio: float = 0.1,
) -> float:
    """Linear warm-up to the peak, then half a cosine down to `final_ratio` of it.

    lr(s) = initial + (peak - initial) s/w  for s < w;
    lr(s) = peak (r + (1 - r)(1 + cos(pi (s - w)/(S - w)))/2)  for w <= s < S;  lr(s) = r peak from S on.

    Args:
        step: updates made so far (s); 0 gives the rate of the first update.
        steps: updates in all (S).
        peak: the highest rate.
        warmup_steps: updates of warm-up (w).
        initial: the rate of the first update.
        final_ratio: last rate over peak (r).

    >>> [learning_rate_at(s, steps=1_000_000, peak=1e-4) for s in (0, 15_000, 1_000_000)]
    [1e-07, 0.0001, 1e-05]

    Source: Gato (arXiv 2205.06175), appendix on training; 1e-7 and the decay by 10x as in NEKO.
    """
    if step < warmup_steps:
        return initial + (peak - initial) * step / warmup_steps
    if step >= steps:
        return final_ratio * peak
    cosine = (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps))) / 2
    return peak * (final_ratio + (1 - final_ratio) * cosine)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices decay; norms, biases and 1-d tensors do not.

    >>> matrices, rest = decay_groups(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), 0.1)
    >>> len(matrices["params"]), len(rest["params"]), matrices["weight_decay"], rest["weight_decay"]
    (1, 3, 0.1, 0.0)
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                plain = parameter.ndim < 2 or isinstance(module, NORMS) or name.endswith("bias")
                (rest if plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(
    model: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
) -> torch.optim.AdamW:
    """AdamW over `decay_groups`, fused into one kernel where the device has one.

    >>> make_optimizer(nn.Linear(2, 2), learning_rate=1e-3).defaults["betas"]
    (0.9, 0.95)
    """
    groups = decay_groups(model, weight_decay)
    if not groups:
        raise ValueError("expected a model with trainable parameters, got none")
    device = groups[0]["params"][0].device.type
    fused = device in ("cpu", "cuda", "xpu", "mps")
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps, weight_decay=0.0, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate

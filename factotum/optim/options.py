"""Options of the optimizer and of its groups: what cannot be is refused before anything is built.

What it does not know: gradients, state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.optim import fused
from factotum.optim.model import HierarchicalRNNCore

STATE_DTYPES = (torch.float32, torch.bfloat16, torch.float64)

FOREIGN = {"betas", "momentum", "eps", "alpha", "rho", "dampening", "nesterov", "amsgrad", "momentum_decay"}
"""Options of other optimizers, which would be ignored here."""

SHARED = ("weights", "seed", "attention", "foreach", "capturable", "differentiable", "fused")
"""Options that hold for the whole optimizer."""


def check_options(options: Mapping[str, Any], core: HierarchicalRNNCore, state_dtype: torch.dtype) -> None:
    """Refuse options that cannot be, or not together.

    Raises:
        UserError: naming the option.
    """
    check_rates(options)
    if state_dtype not in STATE_DTYPES:
        raise UserError(
            f"state_dtype: expected one of {', '.join(map(str, STATE_DTYPES))}, got {state_dtype}"
        )
    for name, others in (
        ("fused", ("foreach", "differentiable", "capturable")),
        ("differentiable", ("capturable",)),
    ):
        for other in others:
            if options[name] and options[other]:
                raise UserError(f"{name} and {other}: expected at most one to be True, got both")
    if options["fused"] and (state_dtype == torch.float64 or core.readout.dtype != torch.float32):
        raise UserError(f"fused: expected state and weights of at most single precision, got {state_dtype}")
    if options["fused"] and (reason := fused.why_not(core.config)):
        raise UserError(f"fused: expected a native kernel, there is none: {reason}")
    if options["attention"] != core.config.attention:
        has = "attention" if core.config.attention else "no attention"
        raise UserError(
            f"attention: expected what the weights were trained for ({has}), got {options['attention']}"
        )


def check_rates(options: Mapping[str, Any]) -> None:
    """Refuse a learning rate or weight decay below 0.

    Raises:
        UserError: naming the option.
    """
    lr = options.get("lr", 1.0)
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise UserError(f"lr: Tensor lr must be 1-element, got shape {tuple(lr.shape)}")
    elif not isinstance(lr, int | float) or not 0 <= lr < float("inf"):
        raise UserError(f"lr: expected a number of at least 0 (Invalid learning rate: {lr})")
    decay = options.get("weight_decay", 0.0)
    if not isinstance(decay, int | float) or not 0 <= decay < float("inf"):
        raise UserError(
            f"weight_decay: expected a number of at least 0 (Invalid weight_decay value: {decay})"
        )


def check_group(group: Any, defaults: Mapping[str, Any]) -> None:
    """Refuse a group with options of other optimizers, or with its own value of what holds for all groups.

    Raises:
        UserError: naming the option.
    """
    if not isinstance(group, dict):
        return  # torch says what it expects
    foreign = sorted(FOREIGN & set(group))
    if foreign:
        raise UserError(
            f"group: expected options of HierarchicalRNN (lr, weight_decay, maximize), got {foreign}"
        )
    for name in SHARED:
        if name in group and group[name] != defaults[name]:
            raise UserError(
                f"{name}: expected one value for all groups ({defaults[name]!r}), got {group[name]!r}"
            )
    check_rates(group)

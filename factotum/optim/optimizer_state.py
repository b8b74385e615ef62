"""State that the optimizer keeps for each parameter, in the form that `state_dict` has: named tensors.

`hidden`, `gradient`, `square` have a leading dimension (10, 4 and 4 as shipped) before the parameter's own;
`gradient_decay`, `square_decay` and `log_rate` have the parameter's shape; `tensor` (20 numbers), `log_rate_mean`,
`pace` (5 numbers) and `step` belong to the whole tensor. One parameter keeps `global`, the state of the whole
problem. With attention, `swap` holds the true parameter while training and the attended one while evaluating.
What it does not know: gradients, groups of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.core.seeding import torch_generator
from factotum.optim.model import HierarchicalRNNCore
from factotum.optim.pace import first_pace
from factotum.optim.sharding import is_split, local_part, part_beside, zeros_beside

SCALAR_SLOTS = ("hidden", "gradient", "square", "gradient_decay", "square_decay", "log_rate")
"""One or several numbers for each scalar, in the order of `factotum.optim.model.Slots`."""

TENSOR_SLOTS = ("tensor", "log_rate_mean", "pace", "step")
"""One or several numbers for the whole tensor, always in full precision."""

GLOBAL, SWAP = "global", "swap"

State = dict[str, Any]


def leading(core: HierarchicalRNNCore) -> dict[str, tuple[int, ...]]:
    """Leading dimensions of the slots that have numbers for each scalar."""
    units, scales = core.config.parameter_units, core.config.scales
    return {name: () for name in SCALAR_SLOTS} | {
        "hidden": (units,), "gradient": (scales,), "square": (scales,),
    }  # fmt: skip


@torch.no_grad()
def new_state(
    core: HierarchicalRNNCore, parameter: Tensor, seed: tuple[int | str, ...], dtype: torch.dtype
) -> State:
    """The state of a parameter before its first step.

    Args:
        core: whose learned initial states are taken.
        parameter: whose shape, device and sharding the state has.
        seed: parts of the seed of the initial learning rates; the same for any device and number of processes.
        dtype: of the numbers for each scalar.

    >>> from factotum.optim.config import HierarchicalRNNConfig
    >>> core = HierarchicalRNNCore(HierarchicalRNNConfig())
    >>> state = new_state(core, torch.ones(2, 3), (0, 0), torch.float32)
    >>> state["hidden"].shape, state["log_rate"].shape, state["step"].item()
    (torch.Size([10, 2, 3]), torch.Size([2, 3]), 0.0)
    """
    state: State = {name: zeros_beside(parameter, shape, dtype) for name, shape in leading(core).items()}
    device = local_part(parameter).device
    start = core.parameter_start.to(device, dtype)
    local_part(state["hidden"]).copy_(start.reshape(-1, *(1,) * parameter.dim()))
    rates = _initial_log_rates(core, parameter.shape, torch_generator(*seed))
    whole = part_beside(rates.reshape(parameter.shape), parameter)
    local_part(state["log_rate"]).copy_(local_part(whole))
    wide = core.tensor_start.dtype
    state["tensor"] = core.tensor_start.detach().to(device, copy=True)
    mean = rates.mean() if rates.numel() else rates.sum()
    state["log_rate_mean"] = mean.to(device, wide)
    state["pace"] = first_pace(1, state["tensor"])[0]
    state["step"] = torch.zeros((), dtype=torch.float32, device=device)
    return state


def _initial_log_rates(core: HierarchicalRNNCore, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """The core's of one tensor, always drawn whole and on the CPU, with no more memory than they take.

    A step of one size in all weights of a unit moves it the further the more inputs it has, so its rates are lower.
    """
    size = shape.numel()
    low, high = (0.5 * math.log(rate) for rate in (core.config.least_rate, core.config.greatest_rate))
    own_P = torch.rand(size, generator=generator, dtype=torch.float32)
    shared = torch.rand(1, generator=generator, dtype=torch.float32)
    fan_in = size // shape[0] if len(shape) > 1 and size else 1
    lower = 0.5 * math.log(max(1.0, fan_in / core.config.fan_in)) if core.config.fan_in else 0.0
    return own_P.mul_(high - low).add_(2 * low + (high - low) * shared - lower)


def check_state(core: HierarchicalRNNCore, parameter: Tensor, state: Mapping[str, Any], name: str) -> None:
    """Refuse state that is not that of this parameter.

    Raises:
        UserError: missing or unknown keys, other shapes.
    """
    expected: dict[str, tuple[int, ...]] = {
        slot: (*shape, *parameter.shape) for slot, shape in leading(core).items()
    }
    expected |= {"tensor": (core.config.tensor_units,), "log_rate_mean": (), "pace": (5,), "step": ()}
    optional = {GLOBAL: (core.config.global_units,), SWAP: tuple(parameter.shape)}
    missing = sorted(set(expected) - set(state))
    extra = sorted(set(map(str, state)) - set(expected) - set(optional))
    if missing or extra:
        raise UserError(f"{name}: expected state of HierarchicalRNN, got missing {missing}, unknown {extra}")
    for key, shape in {**expected, **optional}.items():
        got = tuple(getattr(state[key], "shape", ())) if key in state else shape
        if got != shape:
            raise UserError(f"{name}: expected {key} of shape {shape}, got {got}")


def placed(
    core: HierarchicalRNNCore,
    parameter: Tensor,
    state: Mapping[str, Any],
    dtype: torch.dtype,
    own: Mapping[str, Any],
    capturable: bool = False,
) -> State:
    """State as this optimizer keeps it: on the parameter's device, split as it is, in this optimizer's precision.

    Numbers are never rounded to the parameter's type. Tensors are copied, so that two optimizers do not share them,
    but for those of `own`, which this optimizer has already. Step counts stay on the CPU unless `capturable`.
    """
    shapes = leading(core)
    wide = core.tensor_start.dtype
    dtypes = dict.fromkeys(SCALAR_SLOTS, dtype) | {"step": torch.float32, SWAP: parameter.dtype}
    made: State = {}
    for key, value in state.items():
        value = torch.as_tensor(value)
        device = local_part(parameter).device
        if key in SCALAR_SLOTS or key == SWAP:
            if is_split(parameter) and not is_split(value):
                value = part_beside(value, parameter, len(shapes.get(key, ())))
            elif is_split(value) and not is_split(parameter):
                value = value.full_tensor()  # type: ignore[attr-defined]
        elif key == "step" and not capturable:
            device = torch.device("cpu")
        copy = value is not own.get(key)
        made[key] = value.detach().to(device=device, dtype=dtypes.get(key, wide), copy=copy).contiguous()
    return made


def check_shape(parameter: Tensor, state: Mapping[str, Any] | None, name: str) -> None:
    """Refuse a parameter whose shape is no longer that of its state.

    Raises:
        UserError: naming both shapes.
    """
    if state and state["log_rate"].shape != parameter.shape:
        raise UserError(
            f"{name}: expected the shape {tuple(state['log_rate'].shape)} of its first step, "
            f"got {tuple(parameter.shape)}"
        )

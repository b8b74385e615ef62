"""Loading of a state dict: everything is checked before anything is changed, nothing loses precision.

torch's own loading rounds floating-point state to the parameter's type, which would ruin the RNNs of a bfloat16 model.
What it does not know: steps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch

from factotum.core.checks import UserError
from factotum.optim.model import HierarchicalRNNCore
from factotum.optim.optimizer_state import GLOBAL, check_state, placed

Group = dict[str, Any]

PROGRAM = ("foreach", "fused", "capturable", "differentiable")
"""Options that are the loading optimizer's own."""


def restored(
    optimizer: torch.optim.Optimizer,
    core: HierarchicalRNNCore,
    state_dtype: torch.dtype,
    state_dict: Mapping[str, Any],
) -> dict[str, Any]:
    """State and groups of an optimizer from a state dict, which is not changed.

    Args:
        optimizer: whose parameters the state is for; not changed.
        core: its weights.
        state_dtype: of the state of each scalar.
        state_dict: of an optimizer of the same weights and parameters.

    Raises:
        UserError: it is of another optimizer, other weights or other parameters, or truncated.
    """
    if not {"state", "param_groups"} <= set(state_dict):
        raise UserError(f"state dict: expected keys 'state' and 'param_groups', got {sorted(state_dict)}")
    groups = deepcopy(state_dict["param_groups"])
    _check_groups(optimizer.param_groups, groups, optimizer.defaults["weights"])
    names = list(chain.from_iterable(group["params"] for group in groups))
    parameters = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
    saved = state_dict["state"]
    unknown = [key for key in saved if key not in set(names)]
    if unknown:
        raise UserError(
            f"state dict: expected state of the {len(names)} parameters, got {unknown[:3]} as well"
        )
    filled = [(name, p) for name, p in zip(names, parameters, strict=True) if saved.get(name)]
    for name, parameter in filled:
        check_state(core, parameter, saved[name], f"state of parameter {name}")
    globals_ = [name for name, _ in filled if GLOBAL in saved[name]]
    if filled and len(globals_) != 1:
        raise UserError(f"state dict: expected one parameter with the key {GLOBAL!r}, got {len(globals_)}")
    state: defaultdict[Any, Any] = defaultdict(dict)
    capturable = any(group["capturable"] for group in optimizer.param_groups)
    for name, parameter in filled:
        own = optimizer.state.get(parameter, {})
        state[parameter] = placed(core, parameter, saved[name], state_dtype, own, capturable)
    merged = [_merged(own, new) for own, new in zip(optimizer.param_groups, groups, strict=True)]
    return {"state": state, "param_groups": merged}


def _check_groups(own: Sequence[Group], groups: Sequence[Group], weights: str) -> None:
    sizes, got = [len(group["params"]) for group in own], [len(group["params"]) for group in groups]
    if sizes != got:
        raise UserError(f"state dict: expected parameter groups of {sizes} parameters, got groups of {got}")
    for group in groups:
        if "weights" not in group:
            raise UserError(
                f"state dict: expected one of HierarchicalRNN, got a group with {sorted(set(group) - {'params'})}"
            )
        if group["weights"] != weights:
            raise UserError(
                f"state dict: expected state made with the weights of this optimizer ({weights[:12]}), got one of "
                f"other weights ({str(group['weights'])[:12]}); RNN states mean nothing to other weights"
            )


def _merged(own: Group, new: Group) -> Group:
    """The saved options, but for those that say by which program to compute: another machine may need another."""
    names = {"param_names": own["param_names"]} if "param_names" in own else {}
    return {**names, **new, "params": own["params"], **{name: own[name] for name in PROGRAM}}

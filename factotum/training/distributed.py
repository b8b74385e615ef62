"""Devices and processes through accelerate: one process, or several under torchrun with DDP or FSDP.

accelerate places the process, picks the device, wraps for DDP and reduces. Its own FSDP is for accelerators
only (`AcceleratorState` ignores it on CPUs), so sharding here calls torch's `fully_shard`, which runs on
gloo too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def is_main_process() -> bool:
    """Whether this process is the one that writes; true without torchrun."""
    return int(os.environ.get("RANK", "0")) == 0


def make_accelerator(device: str = "auto") -> Accelerator:
    """The processes that torchrun (or `accelerate launch`) started, or this one.

    Args:
        device: "auto" takes the accelerator there is; "cpu" takes the CPU.
    """
    # A batch of a mixture need not use every parameter (no image, no image embedding).
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    return Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=handlers)


def parallelise(accelerator: Accelerator, module: nn.Module, sharded: bool) -> nn.Module:
    """Move a module to its device and tie it to the same one on the other ranks.

    Args:
        accelerator: from `make_accelerator`.
        module: parameters are equal on all ranks; changed in place.
        sharded: split parameters, gradients and moments over the ranks (FSDP) in place of copies (DDP).

    Returns:
        The module to call; gradients are means over ranks.
    """
    if not sharded:
        return accelerator.prepare_model(module)
    if not torch.distributed.is_initialized():
        raise ValueError("sharded: expected several processes (start with torchrun), got one")
    module.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in _largest_stack(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh).set_reduce_scatter_unused_params(True)
    return module


def _largest_stack(module: nn.Module) -> list[nn.Module]:
    """The blocks of the `ModuleList` with most parameters: each is gathered only while it computes."""
    stacks = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    sizes = [sum(parameter.numel() for parameter in stack.parameters()) for stack in stacks]
    return list(stacks[sizes.index(max(sizes))]) if stacks else []


@contextlib.contextmanager
def synchronised(module: nn.Module, last: bool) -> Iterator[None]:
    """Reduce gradients over ranks in the backward pass of the last micro step alone."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
        yield
    elif isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        with module.no_sync():
            yield
    else:
        yield


def gather_all(accelerator: Accelerator, value: Any) -> list[Any]:
    """One value of each rank, in rank order, on every rank."""
    return list(gather_object([value])) if accelerator.num_processes > 1 else [value]


def sum_over_ranks(accelerator: Accelerator, value: Tensor) -> Tensor:
    """The sum of one tensor of each rank."""
    return accelerator.reduce(value.clone(), "sum") if accelerator.num_processes > 1 else value


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies on this rank; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole tensor; a collective call when it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copy_full(target: Tensor, source: Tensor) -> None:
    """Copy a whole tensor into a possibly sharded one."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
        target.copy_(source)


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """A model's whole state on the CPU; a collective call when it is sharded."""
    return {name: full(tensor).cpu() for name, tensor in model.state_dict().items()}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Optimizer state as whole CPU tensors named `optimizer/<parameter>/<key>`.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> model(torch.ones(1)).backward(); optimizer.step()
    >>> sorted(optimizer_tensors(model, optimizer))
    ['optimizer/weight/exp_avg', 'optimizer/weight/exp_avg_sq', 'optimizer/weight/step']
    """
    return {
        f"optimizer/{name}/{key}": full(value).detach().cpu()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`; an optimizer that loads by rules of its own places its state itself.

    Raises:
        ValueError: state of a parameter that the model does not have, or of another shape.
    """
    parameters = dict(model.named_parameters())
    own_rules = type(optimizer).load_state_dict is not torch.optim.Optimizer.load_state_dict
    state: dict[nn.Parameter, dict[str, Tensor]] = {}
    for path, tensor in tensors.items():
        name, key = path.removeprefix("optimizer/").rsplit("/", 1)
        if name not in parameters:
            raise ValueError(f"optimizer state: expected parameters of the model, got {name!r}")
        parameter = parameters[name]
        state.setdefault(parameter, {})[key] = tensor if own_rules else _placed_like(parameter, tensor, path)
    if own_rules:
        optimizer.load_state_dict(_as_state_dict(optimizer, state))
    else:
        for parameter, values in state.items():
            optimizer.state[parameter].update(values)


def _as_state_dict(
    optimizer: torch.optim.Optimizer, state: dict[nn.Parameter, dict[str, Tensor]]
) -> dict[str, Any]:
    """State by the numbers that the optimizer's own state dict gives its parameters."""
    groups = optimizer.state_dict()["param_groups"]
    pairs = zip(optimizer.param_groups, groups, strict=True)
    numbers = {p: n for own, group in pairs for p, n in zip(own["params"], group["params"], strict=True)}
    return {"state": {numbers[p]: values for p, values in state.items()}, "param_groups": groups}


def _placed_like(parameter: nn.Parameter, tensor: Tensor, path: str) -> Tensor:
    if tensor.ndim == 0:
        return tensor.to(parameter.device)
    if tensor.shape != parameter.shape:
        raise ValueError(f"{path}: expected shape {tuple(parameter.shape)}, got {tuple(tensor.shape)}")
    # Same strides as the parameter: fused kernels read both as flat memory.
    placed = torch.zeros_like(parameter, requires_grad=False)
    copy_full(placed, tensor)
    return placed

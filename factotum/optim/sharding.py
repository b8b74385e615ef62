"""Parameters that are split over processes (DTensor, FSDP2): their parts, state beside them, sums over ranks.

Means over a tensor must be those of the whole tensor, or the trajectory would depend on how many processes share
it. What it does not know: the learned rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.core.checks import UserError

Groups = tuple[Any, ...]
"""Process groups to sum over, one after the other."""


def is_split(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor; costs no import where nothing is distributed.

    >>> is_split(torch.zeros(2))
    False
    """
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies in this process; shares its memory."""
    return tensor.to_local() if is_split(tensor) else tensor  # type: ignore[attr-defined]


def like_parameter(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The part of a gradient that belongs to this process's part of the parameter."""
    if is_split(gradient) and is_split(parameter) and gradient.placements != parameter.placements:  # type: ignore[attr-defined]
        gradient = gradient.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
    return local_part(gradient)


def groups_of(parameter: Tensor) -> Groups:
    """The process groups over which a tensor is split; none for one that is whole (or copied) everywhere."""
    if not is_split(parameter):
        return ()
    mesh = parameter.device_mesh  # type: ignore[attr-defined]
    placements = parameter.placements  # type: ignore[attr-defined]
    return tuple(mesh.get_group(i) for i, placed in enumerate(placements) if not placed.is_replicate())


def check_placements(parameter: Tensor, name: str) -> None:
    """Refuse what has no part of its own per process.

    Raises:
        UserError: a DTensor of partial sums, or a flattened parameter of the first FSDP.
    """
    if getattr(parameter, "_fsdp_flattened", False):
        raise UserError(
            f"{name}: expected whole tensors or DTensors (fully_shard), got a parameter flattened by "
            "FullyShardedDataParallel, in which the tensors run together"
        )
    if is_split(parameter) and any(placed.is_partial() for placed in parameter.placements):  # type: ignore[attr-defined]
        raise UserError(f"{name}: expected a sharded or replicated DTensor, got one of partial sums")


def _moved(placements: Sequence[Any], leading: int) -> list[Any]:
    """Placements of a tensor with `leading` new dimensions in front."""
    from torch.distributed.tensor import Shard

    moved = []
    for placed in placements:
        if hasattr(placed, "split_factor"):  # two-dimensional sharding
            moved.append(type(placed)(placed.dim + leading, split_factor=placed.split_factor))
        else:
            moved.append(Shard(placed.dim + leading) if placed.is_shard() else placed)
    return moved


def zeros_beside(parameter: Tensor, leading: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros of shape (*leading, *parameter.shape), split as the parameter is.

    >>> zeros_beside(torch.ones(2, 3), (4,), torch.float32).shape
    torch.Size([4, 2, 3])
    """
    part = local_part(parameter)
    zeros = torch.zeros((*leading, *part.shape), dtype=dtype, device=part.device)
    if not is_split(parameter):
        return zeros
    from torch.distributed.tensor import DTensor

    shape = torch.Size((*leading, *parameter.shape))
    return DTensor.from_local(
        zeros,
        parameter.device_mesh,  # type: ignore[attr-defined]
        _moved(parameter.placements, len(leading)),  # type: ignore[attr-defined]
        run_check=False,
        shape=shape,
        stride=torch.empty(shape, device="meta").stride(),
    )


def part_beside(whole: Tensor, parameter: Tensor, leading: int = 0) -> Tensor:
    """This process's part of a whole tensor, as its part of the parameter; no communication."""
    if not is_split(parameter):
        return whole
    from torch.distributed.tensor import distribute_tensor

    mesh = parameter.device_mesh  # type: ignore[attr-defined]
    moved = _moved(parameter.placements, leading)  # type: ignore[attr-defined]
    return distribute_tensor(whole, mesh, moved, src_data_rank=None)


def sum_over_ranks(rows: Float[Tensor, "N F"], groups: Sequence[Groups]) -> None:
    """Add up, in place, each row over the processes that hold parts of its tensor.

    Args:
        rows: sums over this process's part of each tensor.
        groups: the process groups of each tensor, from `groups_of`.

    >>> rows = torch.ones(2, 3)
    >>> sum_over_ranks(rows, [(), ()])
    >>> rows.sum().item()
    6.0
    """
    # A dictionary, not a set: every process must call in the same order.
    for same in dict.fromkeys(g for g in groups if g):
        mine = [i for i, g in enumerate(groups) if g == same]
        some = rows if len(mine) == len(groups) else rows[mine]
        for group in same:
            torch.distributed.all_reduce(some, group=group)
        if some is not rows:
            rows[mine] = some

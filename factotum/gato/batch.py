"""What a training step gets: values of one kind in blocks, and where in the rows they go.

Letters: B rows, T positions of a row, M targets, n elements.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

ABSENT = -1
"""Id of what is not there: padding of a text, an action that is kept hidden."""
IGNORED_SLOT = -1
"""Slot of a target that is a token of its own, not one scalar of a fused action; local index of an action."""


@dataclass
class Block:
    """Values of one kind and the flat positions they go to; `local` is the index within the observation."""

    kind: str
    values: Tensor
    where: Tensor
    local: Tensor | None = None

    def to(self, device: torch.device | str) -> Block:
        """The block on a device."""
        local = None if self.local is None else self.local.to(device)
        return Block(self.kind, self.values.to(device), self.where.to(device), local)


@dataclass
class Batch:
    """Everything a training step needs; `target_where` are the positions that predict, M of them."""

    rows: int
    length: int
    blocks: list[Block]
    segments_BT: Tensor | None
    target_where_M: Tensor
    target_slot_M: Tensor
    target_ids_M: Tensor
    target_task_M: Tensor
    tokens: int = 0
    task_names: list[str] = field(default_factory=list)
    task_rows: list[int] = field(default_factory=list)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, blocks=[block.to(device) for block in self.blocks], **moved)


def merge_blocks(blocks: list[Block]) -> list[Block]:
    """Blocks of one kind (and image shape) as one, narrower ones padded by ABSENT or NaN: few, large operations."""
    alike: dict[Any, list[Block]] = {}
    for block in blocks:
        shape = block.values.shape[1:] if block.kind == "image" else None
        alike.setdefault((block.kind, shape), []).append(block)
    return [_merge(kind, group) for (kind, _), group in alike.items()]


def _merge(kind: str, group: list[Block]) -> Block:
    if len(group) == 1:
        return group[0]
    width = max(block.values.shape[1] if block.values.dim() > 1 else 0 for block in group)
    padding = float("nan") if kind == "continuous" else ABSENT
    padded = kind in ("text", "discrete", "action", "continuous")
    values = [_widen(block.values, width, padding) if padded else block.values for block in group]
    local = [block.local for block in group if block.local is not None]
    where = torch.cat([block.where for block in group])
    return Block(kind, torch.cat(values), where, torch.cat(local) if local else None)


def _widen(values: Tensor, width: int, padding: float) -> Tensor:
    if values.shape[1] == width:
        return values
    wide = values.new_full((len(values), width, *values.shape[2:]), padding)
    wide[:, : values.shape[1]] = values
    return wide

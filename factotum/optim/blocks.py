"""How the tensors of a step are cut into pieces of bounded size.

What it does not know: what is computed of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from factotum.optim.layout import Layout
from factotum.optim.optimizer_state import SCALAR_SLOTS, State
from factotum.optim.sharding import Groups, local_part


@dataclass(frozen=True)
class Work:
    """One tensor in one step: this process's parts of it."""

    name: str
    parameter: Tensor
    gradient: Tensor
    state: State
    count: int
    """scalars of the whole tensor, over all processes"""
    ranks: Groups
    lr: float | Tensor
    weight_decay: float
    maximize: bool

    def flat_slots(self) -> dict[str, Tensor]:
        """This process's part of each slot as (leading, scalars) or (scalars,); shares memory with the state."""
        part = {name: local_part(self.state[name]) for name in SCALAR_SLOTS}
        own, size = self.parameter.dim(), self.parameter.numel()
        return {name: t.view(*t.shape[: t.dim() - own], size) for name, t in part.items()}


class Block(NamedTuple):
    """Neighbouring tensors that are computed at once, or one part of a large one."""

    first: int
    """index of its first tensor"""
    parts: tuple[tuple[int, int], ...]
    """from which scalar to which of each tensor"""
    offset: int
    """where its scalars lie in the flat vector of all"""
    layout: Layout

    @property
    def rows(self) -> slice:
        """Which tensors."""
        return slice(self.first, self.first + len(self.parts))

    @property
    def scalars(self) -> slice:
        """Which of all scalars."""
        return slice(self.offset, self.offset + self.layout.scalar_count)


def cut(sizes: Sequence[int], limit: int, together: bool) -> list[Block]:
    """Blocks of at most `limit` scalars, several tensors in one where they fit (and may be together).

    >>> [(block.first, block.parts) for block in cut([3, 2, 7], 5, True)]
    [(0, ((0, 3), (0, 2))), (2, ((0, 5),)), (2, ((5, 7),))]
    """
    pieces: list[tuple[int, list[tuple[int, int]]]] = []
    room = 0
    for tensor, size in enumerate(sizes):
        if together and pieces and size <= room:
            pieces[-1][1].append((0, size))
            room -= size
            continue
        pieces += [(tensor, [(a, min(a + limit, size))]) for a in range(0, max(size, 1), limit)]
        room = max(limit - size, 0)
    blocks, offset = [], 0
    for first, parts in pieces:
        layout = Layout.single([b - a for a, b in parts])
        blocks.append(Block(first, tuple(parts), offset, layout))
        offset += layout.scalar_count
    return blocks


class Share(NamedTuple):
    """The tensors of a step that lie on one device."""

    device: torch.device
    rows: slice
    """which tensors"""
    blocks: list[Block]


class Plan(NamedTuple):
    """How the tensors of a step are cut, on each device."""

    layout: Layout
    """of the whole tensors"""
    shares: list[Share]


Extent = tuple[int, int, torch.device]
"""Scalars of a whole tensor, those in this process, and where they are."""


def make_plan(extents: Sequence[Extent], together: bool, dtype: torch.dtype = torch.float32) -> Plan:
    """Cut the tensors of a step.

    Args:
        extents: of the tensors, those on one device behind each other.
        together: whether several tensors may share a block.
        dtype: in which is computed.

    >>> plan = make_plan([(6, 6, torch.device("cpu")), (8, 4, torch.device("cpu"))], True)
    >>> plan.layout.sizes, plan.shares[0].blocks[0].parts
    ((6, 8), ((0, 6), (0, 4)))
    """
    sizes: dict[torch.device, list[int]] = {}
    for _, part, device in extents:
        sizes.setdefault(device, []).append(part)
    shares, first = [], 0
    for device, some in sizes.items():
        blocks = cut(some, block_limit(device, sum(some)), together)
        for block in blocks:
            _prepare(block.layout, device, dtype)
            block.layout.tensor_sum(block.layout.to_scalars(torch.zeros(len(block.parts), device=device)))
        shares.append(Share(device, slice(first, first + len(some)), blocks))
        first += len(some)
    layout = Layout.single([whole for whole, _, _ in extents])
    _prepare(layout, extents[0][2], dtype)
    return Plan(layout, shares)


def _prepare(layout: Layout, device: torch.device, dtype: torch.dtype) -> None:
    """Let a layout make its indices now, not while a step is captured or compiled."""
    row_N = torch.zeros(layout.tensor_count, device=device, dtype=dtype)
    layout.to_tensors(layout.problem_mean(row_N)), layout.problem_last(row_N), layout.counts_N(row_N)


def block_limit(device: torch.device, scalars: int) -> int:
    """How many scalars to compute at once: a CPU's cache is small, an accelerator wants much, memory is bounded.

    >>> block_limit(torch.device("cpu"), 10**6), block_limit(torch.device("cuda"), 10**8)
    (16384, 1562500)
    """
    return 1 << 14 if device.type == "cpu" else max(1 << 16, min(1 << 22, scalars // 64))

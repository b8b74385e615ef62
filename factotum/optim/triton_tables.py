"""What the kernels of a GPU are told of tensors: where they lie, how they are cut into blocks.

A launch has a fixed number of arguments and a step has any number of tensors, so that addresses are in tables on the
device. These are kept as long as the addresses stay the same.
What it does not know: what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

GROUP = 256
"""Rows of sums that one program adds up."""

KEPT = 8
"""Tables of addresses that are kept; gradients may lie in another place in every step."""


class Blocks(NamedTuple):
    """Blocks of N tensors, M in all; their rows of sums are added up in groups, then the groups of each tensor.

    An empty tensor has none.
    """

    tensor_M: Int[Tensor, " M"]
    first_N: Int[Tensor, " N"]
    """number of a tensor's first block"""
    row_G: Int[Tensor, " G"]
    """first block of a group"""
    rows_G: Int[Tensor, " G"]
    """how many it has"""
    group_N: Int[Tensor, " N"]
    """first group of a tensor"""
    groups_N: Int[Tensor, " N"]


def cut_into_blocks(sizes: Sequence[int], block: int, device: torch.device) -> Blocks:
    """Cut tensors of these sizes.

    >>> blocks = cut_into_blocks([5, 0, 3], 2, torch.device("cpu"))
    >>> blocks.tensor_M.tolist(), blocks.first_N.tolist(), blocks.groups_N.tolist()
    ([0, 0, 0, 2, 2], [0, 3, 3], [1, 0, 1])
    >>> many = cut_into_blocks([600], 2, torch.device("cpu"))
    >>> many.row_G.tolist(), many.rows_G.tolist()
    ([0, 256], [256, 44])
    """
    blocks_N = torch.tensor([-(-size // block) for size in sizes], dtype=torch.int64)
    groups_N = (blocks_N + GROUP - 1) // GROUP
    first_N, group_N = blocks_N.cumsum(0) - blocks_N, groups_N.cumsum(0) - groups_N
    tensor_M = torch.repeat_interleave(torch.arange(len(sizes)), blocks_N)
    tensor_G = torch.repeat_interleave(torch.arange(len(sizes)), groups_N)
    before_G = (torch.arange(len(tensor_G)) - group_N[tensor_G]) * GROUP
    rows_G = (blocks_N[tensor_G] - before_G).clamp(max=GROUP)
    found = (tensor_M, first_N, first_N[tensor_G] + before_G, rows_G, group_N, groups_N)
    return Blocks(*(numbers.to(device, torch.int32) for numbers in found))


class Tables:
    """Whole numbers on a device, kept for the next step.

    Args:
        device: where.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def put(self, numbers: Sequence[int]) -> Int[Tensor, " K"]:
        """The numbers on the device.

        >>> tables = Tables(torch.device("cpu"))
        >>> tables.put([1, 2]) is tables.put([1, 2]), tables.put([3]).tolist()
        (True, [3])
        """
        key = tuple(numbers)
        if key in self._kept:
            self._kept[key] = self._kept.pop(key)  # the last to go
            return self._kept[key]
        if capturing(self.device):
            # A graph would copy from the host's memory whenever it is replayed; each number is an argument instead.
            # It is not kept: it is there once the graph has been replayed, not now.
            return torch.stack(
                [torch.full((), number, dtype=torch.int64, device=self.device) for number in key]
            )
        if len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = torch.tensor(key, dtype=torch.int64).to(self.device)
        return self._kept[key]


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()

"""Which tensor a scalar is of, and which problem a tensor is of: one flat vector for everything that is optimized.

All scalars of all tensors of all problems lie in one flat vector, tensor after tensor. So hundreds of small
problems, or the many tensors of one model, are one batch of the parameter RNN.

Letters: P scalars, N tensors, B problems, F any number of columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factotum.core.checks import UserError

LARGE = 2048
"""Mean size of tensors from which on they are summed one by one, instead of by index."""


@dataclass(frozen=True)
class Layout:
    """Sizes of the tensors in a flat vector, and the problem of each.

    Sums are the same each time on a CPU; on a GPU those of many small tensors of unequal sizes are so only under
    `torch.use_deterministic_algorithms`.

    Args:
        sizes: numbers of scalars of the tensors, in the order of the flat vector; 0 is allowed.
        problems: index of the problem of each tensor: 0, ..., B - 1, each at least once, in any order.

    Raises:
        UserError: negative sizes, lists of different length, or problems that are not numbered so.

    >>> layout = Layout((2, 1, 3), (0, 0, 1))
    >>> layout.tensor_mean(torch.arange(6.0)).tolist()
    [0.5, 2.0, 4.0]
    >>> layout.problem_scalar_mean(torch.arange(6.0)).tolist()
    [1.0, 4.0]
    """

    sizes: tuple[int, ...]
    problems: tuple[int, ...]
    _kept: dict[Any, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.problems):
            raise UserError(
                f"layout: expected a problem for each of {len(self.sizes)} tensors, got {len(self.problems)}"
            )
        if any(not isinstance(size, int) or size < 0 for size in self.sizes):
            raise UserError(f"layout: expected sizes of 0 or more, got {self.sizes}")
        if set(self.problems) != set(range(len(set(self.problems)))):
            raise UserError(f"layout: expected problems numbered from 0, got {self.problems}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Layout, (self.sizes, self.problems)

    @staticmethod
    def single(sizes: Iterable[int]) -> Layout:
        """The tensors of one problem.

        >>> Layout.single([4, 2]).problems
        (0, 0)
        """
        sizes = tuple(sizes)
        return Layout(sizes, (0,) * len(sizes))

    @staticmethod
    def copies(shapes: Sequence[Sequence[int]], copies: int) -> Layout:
        """B copies of one problem, whose tensors (B, *shape) are flattened one after the other.

        >>> Layout.copies([(2, 3), (3,)], 2)
        Layout(sizes=(6, 6, 3, 3), problems=(0, 1, 0, 1))
        """
        sizes = tuple(prod(shape) for shape in shapes for _ in range(copies))
        return Layout(sizes, tuple(range(copies)) * len(shapes))

    @staticmethod
    def joined(layouts: Iterable[Layout]) -> Layout:
        """Several layouts behind each other, problems numbered on.

        >>> Layout.joined([Layout.single([4]), Layout.single([2, 2])])
        Layout(sizes=(4, 2, 2), problems=(0, 1, 1))
        """
        sizes: list[int] = []
        problems: list[int] = []
        first = 0
        for layout in layouts:
            sizes += layout.sizes
            problems += (first + problem for problem in layout.problems)
            first += layout.problem_count
        return Layout(tuple(sizes), tuple(problems))

    @cached_property
    def scalar_count(self) -> int:
        """P."""
        return sum(self.sizes)

    @cached_property
    def tensor_count(self) -> int:
        """N."""
        return len(self.sizes)

    @cached_property
    def problem_count(self) -> int:
        """B."""
        return max(self.problems, default=-1) + 1

    def tensor_sum(self, x_PF: Float[Tensor, "P ..."]) -> Float[Tensor, "N ..."]:
        """Sums over the scalars of each tensor; 0 for an empty one."""
        if self._even:
            return x_PF.reshape(self.tensor_count, self.sizes[0], *x_PF.shape[1:]).sum(1)
        if self._large:
            return torch.stack([part_F.sum(0) for part_F in x_PF.split(self.sizes)])
        sums_NF = x_PF.new_zeros(self.tensor_count, *x_PF.shape[1:])
        return sums_NF.index_add(0, self.tensor_of_P(x_PF.device), x_PF)

    def tensor_mean(self, x_PF: Float[Tensor, "P ..."]) -> Float[Tensor, "N ..."]:
        """Means over the scalars of each tensor; 0 for an empty one."""
        return _divide(self.tensor_sum(x_PF), self.counts_N(x_PF))

    def to_scalars(self, x_NF: Float[Tensor, "N ..."]) -> Float[Tensor, "P ..."]:
        """What each tensor has, given to each of its scalars."""
        if self._even:
            wide = x_NF[:, None].expand(-1, self.sizes[0], *x_NF.shape[1:])
            return wide.reshape(self.scalar_count, *x_NF.shape[1:])
        if self._large:
            rows = zip(x_NF.unbind(), self.sizes, strict=True)
            return torch.cat([row_F.expand(size, *row_F.shape) for row_F, size in rows])
        return x_NF.index_select(0, self.tensor_of_P(x_NF.device))

    def problem_mean(self, x_NF: Float[Tensor, "N ..."]) -> Float[Tensor, "B ..."]:
        """Means over the tensors of each problem, empty tensors left out."""
        filled_N = self.filled_N(x_NF)
        return _divide(self.problem_sum(x_NF * _over(filled_N, x_NF)), self.problem_sum(filled_N))

    def problem_last(self, x_NF: Float[Tensor, "N ..."]) -> Float[Tensor, "B ..."]:
        """What the last tensor of each problem has, empty tensors left out where there are others."""
        return x_NF.index_select(0, self._indices("last", x_NF.device))

    def problem_sum(self, x_NF: Float[Tensor, "N ..."]) -> Float[Tensor, "B ..."]:
        """Sums over the tensors of each problem."""
        if self.problem_count == 1 and x_NF.device.type != "cpu":  # where index_add is in no certain order
            return x_NF.sum(0, keepdim=True)
        sums_BF = x_NF.new_zeros(self.problem_count, *x_NF.shape[1:])
        return sums_BF.index_add(0, self.problem_of_N(x_NF.device), x_NF)

    def to_tensors(self, x_BF: Float[Tensor, "B ..."]) -> Float[Tensor, "N ..."]:
        """What each problem has, given to each of its tensors."""
        return x_BF.index_select(0, self.problem_of_N(x_BF.device))

    def problem_scalar_mean(self, x_P: Float[Tensor, " P"]) -> Float[Tensor, " B"]:
        """Means over all scalars of each problem; 0 for one without any."""
        counts_B = self.problem_sum(self.counts_N(x_P))
        return _divide(self.problem_sum(self.tensor_sum(x_P)), counts_B)

    def tensor_of_P(self, device: torch.device) -> Int[Tensor, " P"]:
        """Index of the tensor of each scalar."""
        return self._indices("tensor", device)

    def problem_of_N(self, device: torch.device) -> Int[Tensor, " N"]:
        """Index of the problem of each tensor."""
        return self._indices("problem", device)

    def counts_N(self, like: Tensor) -> Float[Tensor, " N"]:
        """Numbers of scalars of the tensors, with type and device of `like`."""
        return self._number("counts", like)

    def filled_N(self, like: Tensor) -> Float[Tensor, " N"]:
        """1 for tensors with scalars, 0 for empty ones, with type and device of `like`."""
        return self._number("filled", like)

    @cached_property
    def _even(self) -> bool:
        return len(set(self.sizes)) == 1 and self.sizes[0] > 0

    @cached_property
    def _large(self) -> bool:
        return self.tensor_count > 0 and self.scalar_count >= LARGE * self.tensor_count

    def _indices(self, name: str, device: torch.device) -> Tensor:
        if (name, device) not in self._kept:
            if name == "tensor":
                numbers = torch.arange(self.tensor_count)
                made = torch.repeat_interleave(numbers, torch.tensor(self.sizes, dtype=torch.long))
            elif name == "problem":
                made = torch.tensor(self.problems, dtype=torch.long)
            else:
                order = sorted(range(self.tensor_count), key=lambda i: (self.sizes[i] > 0, i))
                last = {self.problems[i]: i for i in order}
                made = torch.tensor(
                    [last[problem] for problem in range(self.problem_count)], dtype=torch.long
                )
            self._kept[name, device] = made.to(device)
        return self._kept[name, device]

    def _number(self, name: str, like: Tensor) -> Tensor:
        key = (name, like.device, like.dtype)
        if key not in self._kept:
            sizes = torch.tensor(self.sizes, dtype=like.dtype)
            self._kept[key] = (sizes if name == "counts" else sizes.clamp_max(1)).to(like.device)
        return self._kept[key]


def _over(x_N: Tensor, like_NF: Tensor) -> Tensor:
    """A number for each row, shaped so that it multiplies the rows of another tensor."""
    return x_N.reshape(-1, *(1,) * (like_NF.dim() - 1))


def _divide(sums_NF: Tensor, counts_N: Tensor) -> Tensor:
    return sums_NF / _over(counts_N.clamp_min(1), sums_NF)

"""Both passes of a step by the native kernel, where all tensors of a CPU suit it.

What it does not know: how the kernel works (native.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.optim import native
from factotum.optim.blocks import Work
from factotum.optim.model import Slots
from factotum.optim.optimizer_state import SCALAR_SLOTS, SWAP
from factotum.optim.sharding import local_part


def suit(works: Sequence[Work]) -> bool:
    """Whether the kernel can work on all these tensors."""
    slots = [local_part(work.state[name]) for work in works for name in SCALAR_SLOTS]
    targets = [local_part(work.state[SWAP]) for work in works if SWAP in work.state]
    return native.fits(*(work.parameter for work in works), *slots, *targets) and all(
        work.gradient.dtype in native.TYPES and work.gradient.device.type == "cpu" for work in works
    )


class Program:
    """A kernel, and memory for steps on their way that is kept for the next ones of the same shapes.

    Args:
        kernel: of `native.pack`.
    """

    def __init__(self, kernel: native.Kernel) -> None:
        self.kernel = kernel
        self._shapes: list[torch.Size] = []
        self._kept: list[list[Tensor]] = []

    def buffers(self, shapes: list[torch.Size], count: int) -> list[list[Tensor]]:
        """`count` float32 tensors of each shape, with anything in them."""
        if shapes != self._shapes or count != len(self._kept):
            self._kept = []  # freed first
            self._kept = [[torch.empty(shape, dtype=torch.float32) for shape in shapes] for _ in range(count)]
            self._shapes = shapes
        return self._kept


class NativePasses:
    """Both passes in C++.

    Args:
        program: the kernel with its memory.
        works: tensors that `suit`.
    """

    def __init__(self, program: Program, works: Sequence[Work]) -> None:
        self.kernel, self.works = program.kernel, works
        attention = self.kernel.config.attention
        buffers = program.buffers([work.parameter.shape for work in works], 1 + attention)
        self.steps, self.attended = buffers[0], buffers[1] if attention else None

    def first(
        self,
        bias_NE: Float[Tensor, "N E"],
        mean_log_rate_N: Float[Tensor, " N"],
        floor_N: Float[Tensor, " N"],
    ) -> Float[Tensor, "N K"]:
        """Step the slots; sums over each tensor."""
        slots = [Slots(*(local_part(work.state[name]) for name in SCALAR_SLOTS)) for work in self.works]
        gradients = [-work.gradient if work.maximize else work.gradient for work in self.works]
        rounded = any(slot.dtype == torch.bfloat16 for each in slots for slot in each)
        seed = int(max(work.state["step"] for work in self.works)) if rounded else None
        return native.sweep_(
            self.kernel,
            gradients,
            slots,
            bias_NE,
            mean_log_rate_N,
            floor_N,
            self.steps,
            self.attended,
            seed=seed,
        )

    def second(
        self,
        scale_N: Float[Tensor, " N"],
        shrink_N: Float[Tensor, " N"],
        attended_scale_N: Float[Tensor, " N"] | None = None,
    ) -> None:
        """Move the parameters: add the update times `scale`, take away the share `shrink`."""
        parameters = [work.parameter.detach() for work in self.works]
        targets = parameters
        if self.attended is not None and attended_scale_N is not None:
            targets = [local_part(work.state[SWAP]) for work in self.works]
            kept_N = 1 - shrink_N
            torch._foreach_copy_(parameters, targets)
            native.finish_(self.kernel, parameters, self.attended, attended_scale_N)
            native.finish_(self.kernel, targets, self.steps, scale_N, kept_N)
        else:
            native.finish_(self.kernel, targets, self.steps, scale_N, 1 - shrink_N)

"""Both passes of a step by kernels of Triton, where all tensors of a GPU suit them.

All tensors are one launch for each pass, and as many more as there are types of gradients and parameters. No result
is read on the host, so a step can be captured in a CUDA graph. Weights with attention are left to plain torch.
What it does not know: how the kernels work (triton_kernel.py); it is loaded where Triton is there.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from copy import deepcopy
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.optim import native
from factotum.optim.blocks import Work
from factotum.optim.config import HierarchicalRNNConfig
from factotum.optim.model import HierarchicalRNNCore
from factotum.optim.native_build import BuildError, check_switch
from factotum.optim.optimizer_state import SCALAR_SLOTS, SWAP
from factotum.optim.sharding import local_part
from factotum.optim.triton_tables import Blocks, Tables, capturing, cut_into_blocks

BLOCK, WARPS = 256, 4
"""Scalars and warps of a program; registers hold all that a scalar needs, so few scalars are of one thread."""

FINISH_BLOCK = 1024
TILE = 64
"""Rows of sums that are added up at once."""

log = logging.getLogger("factotum.optim")


@functools.cache
def why_not(kind: str = "cuda") -> str | None:
    """Why the kernels cannot be used on devices of a kind, in one line; None where they can.

    The first call compiles a small one.
    """
    try:
        check_switch()
        from factotum.optim import triton_kernel as kernels

        rows = torch.ones(3, 2, device=kind)
        one, three = (torch.full((1,), n, dtype=torch.int32, device=kind) for n in (0, 3))
        sums = torch.zeros(1, 2, device=kind)
        kernels.add_rows[(1,)](rows, one, three, sums, 2, 2, 4)
        return None if sums.tolist() == [[3.0, 3.0]] else "Triton adds 1 and 1 and 1 to something else than 3"
    except ImportError:
        return "Triton is not installed"
    except BuildError as error:
        return str(error)
    except Exception as error:  # whatever a compiler may say
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        log.warning("the learned optimizer runs without its Triton kernels: %s", reason)
        return f"Triton does not work here: {reason}"


def fits(*tensors: Tensor) -> bool:
    """Whether the kernels can work on these tensors: on one device, dense in row order, of a type they know."""
    return all(
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device == tensors[0].device
        and tensor.dtype in native.TYPES
        and tensor.is_contiguous()
        for tensor in tensors
    )


def suit(works: Sequence[Work], config: HierarchicalRNNConfig) -> bool:
    """Whether the kernels can work on all these tensors of a device."""
    slots = [local_part(work.state[name]) for work in works for name in SCALAR_SLOTS]
    return (
        not config.attention
        and not any(SWAP in work.state for work in works)
        and fits(*(work.parameter for work in works), *slots)
        and len({slot.dtype for slot in slots}) == 1
        and all(
            work.gradient.dtype in native.TYPES and work.gradient.device == work.parameter.device
            for work in works
        )
    )


class Program:
    """A core's weights on a device, with tables and memory for steps on their way that are kept for the next ones.

    Args:
        core: whose weights are copied; later changes are not seen.
        device: where.
    """

    def __init__(self, core: HierarchicalRNNCore, device: torch.device) -> None:
        self.config, self.device = core.config, device
        self.weights = native.packed_weights(deepcopy(core).cpu()).to(device)
        self.always = torch.ones((), dtype=torch.int32, device=device)
        self.tables = Tables(device)
        self.captured: list[Any] = []  # what graphs still work with
        self._steps: Tensor | None = None
        self._blocks: dict[tuple[int, ...], Blocks] = {}

    def steps(self, size: int) -> Float[Tensor, " P"]:
        """Memory for steps, with anything in it."""
        if self._steps is None or self._steps.numel() != size:
            self._steps = None  # freed first
            self._steps = torch.empty(size, dtype=torch.float32, device=self.device)
        return self._steps

    def blocks(self, sizes: Sequence[int], block: int) -> Blocks:
        """How tensors of these sizes are cut."""
        key = (block, *sizes)
        if key not in self._blocks:
            if len(self._blocks) >= 16:
                self._blocks.clear()
            self._blocks[key] = cut_into_blocks(sizes, block, self.device)
        return self._blocks[key]


class TritonPasses:
    """Both passes on a GPU.

    Args:
        program: weights and memory.
        works: tensors that `suit`.
        sound: where this is false, nothing changes.
    """

    def __init__(self, program: Program, works: Sequence[Work], sound: Tensor | None) -> None:
        sizes = [work.parameter.numel() for work in works]
        steps, offsets = program.steps(sum(sizes)), [0, *accumulate(sizes)]
        kinds = [(work.gradient.dtype, work.parameter.dtype) for work in works]
        self.rows = [[n for n, kind in enumerate(kinds) if kind == one] for one in dict.fromkeys(kinds)]
        self.batches = [
            Batch(program, [works[n] for n in rows], steps, [offsets[n] for n in rows], sound)
            for rows in self.rows
        ]
        self.program = program

    def first(
        self,
        bias_NE: Float[Tensor, "N E"],
        mean_log_rate_N: Float[Tensor, " N"],
        floor_N: Float[Tensor, " N"],
    ) -> Float[Tensor, "N K"]:
        """Step the slots; sums over each tensor."""
        columns = (bias_NE, mean_log_rate_N, floor_N)
        parts = [batch.sweep(*parts) for batch, parts in zip(self.batches, self._split(columns), strict=True)]
        if len(parts) == 1:
            return parts[0]
        order = [n for rows in self.rows for n in rows]
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(parts).index_select(0, self.program.tables.put(back))

    def second(
        self,
        scale_N: Float[Tensor, " N"],
        shrink_N: Float[Tensor, " N"],
        attended_scale_N: Float[Tensor, " N"] | None = None,
    ) -> None:
        """Move the parameters: add the update times `scale`, take away the share `shrink`."""
        columns = (scale_N, 1 - shrink_N)
        for batch, parts in zip(self.batches, self._split(columns), strict=True):
            batch.finish(*parts)

    def _split(self, columns: Sequence[Tensor]) -> list[list[Tensor]]:
        """The rows of each batch, dense."""
        if len(self.rows) == 1:
            return [[column.contiguous() for column in columns]]
        indices = [self.program.tables.put(rows) for rows in self.rows]
        return [[column.index_select(0, index) for column in columns] for index in indices]


class Batch:
    """Tensors whose gradients are of one type, and whose parameters are of one type.

    Args:
        program: weights and memory.
        works: the tensors.
        steps: memory for the steps of all tensors.
        offsets: where the tensors' scalars begin among all.
        sound: where this is false, nothing changes.
    """

    def __init__(
        self,
        program: Program,
        works: Sequence[Work],
        steps: Tensor,
        offsets: Sequence[int],
        sound: Tensor | None,
    ) -> None:
        self.program, self.works = program, works
        self.sizes = [work.parameter.numel() for work in works]
        self.gradients = [work.gradient.contiguous() for work in works]
        self.slot = local_part(works[0].state["log_rate"]).dtype
        self.sound = program.always if sound is None else sound.to(program.device, torch.int32)
        rows = []
        for work, size, offset in zip(works, self.sizes, offsets, strict=True):
            slots = [local_part(work.state[name]).data_ptr() for name in SCALAR_SLOTS]
            places = [*slots, steps.data_ptr() + 4 * offset, work.parameter.data_ptr()]
            rows += [size, *places, int(work.maximize), offset]
        self.table = program.tables.put(rows)
        if capturing(program.device):
            program.captured.append((program.weights, program.always, steps, self.table))

    def sweep(
        self,
        bias_NE: Float[Tensor, "N E"],
        mean_log_rate_N: Float[Tensor, " N"],
        floor_N: Float[Tensor, " N"],
    ) -> Float[Tensor, "N K"]:
        """The first pass."""
        from factotum.optim import triton_kernel as kernels

        config, blocks = self.program.config, self._blocks(BLOCK)
        count, width = len(blocks.tensor_M), config.parameter_units + config.features + 3
        partial = bias_NE.new_empty(count, width)
        gradients = self.program.tables.put([gradient.data_ptr() for gradient in self.gradients])
        if count:
            self._launch(
                kernels.sweep, count, self.table, gradients, self._step_counts(), blocks.tensor_M, blocks.first_N,
                self.program.weights, bias_NE, mean_log_rate_N, floor_N, self.sound, partial,
                GRADIENT=self._kind(self.gradients[0]), SLOT=kernels.KINDS[self.slot],
                UNITS=config.parameter_units, SCALES=config.scales, PRODUCTS=config.gradient_products,
                ASINH=config.squash == "asinh", BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=True,
            )  # fmt: skip
        by_group = self._add_up(partial, blocks.row_G, blocks.rows_G)
        return self._add_up(by_group, blocks.group_N, blocks.groups_N)

    def finish(self, scale_N: Float[Tensor, " N"], kept_N: Float[Tensor, " N"]) -> None:
        """The second pass."""
        from factotum.optim import triton_kernel as kernels

        blocks = self._blocks(FINISH_BLOCK)
        if len(blocks.tensor_M):
            self._launch(
                kernels.finish, len(blocks.tensor_M), self.table, blocks.tensor_M, blocks.first_N, scale_N, kept_N,
                self.sound, NUMBER=self._kind(self.works[0].parameter), BLOCK=FINISH_BLOCK,
            )  # fmt: skip

    def _blocks(self, block: int) -> Blocks:
        found = self.program.blocks(self.sizes, block)
        if capturing(self.program.device):
            self.program.captured.append(found)
        return found

    def _kind(self, tensor: Tensor) -> Any:
        from factotum.optim import triton_kernel as kernels

        return kernels.KINDS[tensor.dtype]

    def _step_counts(self) -> Float[Tensor, " N"]:
        """Steps taken so far, which rounding by chance depends on."""
        if self.slot != torch.bfloat16:
            return self.program.weights  # not looked at
        return torch.stack([work.state["step"] for work in self.works]).to(self.program.device)

    def _add_up(self, rows: Tensor, first: Tensor, counts: Tensor) -> Tensor:
        """Sums of neighbouring rows."""
        from factotum.optim import triton_kernel as kernels

        sums, width = rows.new_empty(len(first), rows.shape[1]), rows.shape[1]
        if len(first):
            padded = 1 << (width - 1).bit_length()
            self._launch(kernels.add_rows, len(first), rows, first, counts, sums, width, padded, TILE)
        return sums

    def _launch(self, kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
        with torch.cuda.device_of(self.table):
            kernel[(programs,)](*arguments, **options)

"""The core for meta-training on a CPU: what it does per scalar, and the gradient of that, is compiled.

Weights, results and gradients are those of `HierarchicalRNNCore`, up to rounding; a step and its gradient take a
tenth of the time. Slots lie feature by feature: `hidden_PH` is the transpose of a contiguous tensor (H, P). Where the
pass cannot be used (no compiler, another device or type, attention) the parent's step is, and `why_not` says why.

What it does not know: problems and objectives.
Letters as in `factotum.optim.model`.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import subprocess
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from factotum.optim import native_build
from factotum.optim.config import HierarchicalRNNConfig
from factotum.optim.features import LARGEST
from factotum.optim.layout import Layout
from factotum.optim.model import HierarchicalRNNCore, OptimizerState, Slots, Step
from factotum.optim.pace import floor, next_pace

SOURCES = ("native_training.cpp", "native_vectors.h")
log = logging.getLogger("factotum.optim")


class TrainingCore(HierarchicalRNNCore):
    """`HierarchicalRNNCore` whose step is compiled where it can be.

    Args:
        config: sizes and choices; torch's global generator draws the weights, the same ones.

    Attributes:
        native: set to False for the parent's step.

    >>> torch.manual_seed(0)
    <torch._C.Generator object at ...>
    >>> core, layout = TrainingCore(HierarchicalRNNConfig()), Layout.single([3, 2])
    >>> state = core.initial_state(layout, torch.Generator().manual_seed(0))
    >>> step, state = core.step(torch.ones(5), state, layout)
    >>> step.update_P.shape, state.slots.hidden_PH.shape
    (torch.Size([5]), torch.Size([5, 10]))
    """

    def __init__(self, config: HierarchicalRNNConfig) -> None:
        super().__init__(config)
        self.native = True
        self._kept: tuple[Layout, list[Tensor]] | None = None

    def step(self, gradient_P: Tensor, state: OptimizerState, layout: Layout) -> tuple[Step, OptimizerState]:
        """See `HierarchicalRNNCore.step`; in the compiled pass no gradient goes to `gradient_P`."""
        if not self._usable(gradient_P):
            return super().step(gradient_P, state, layout)
        self._check(gradient_P, state, layout)
        hidden_PH, mean_PS, square_PS, *flat = state.slots
        bias_NE = self.biases(state.tensor_NT, state.global_BG, layout)
        floor_N = floor(state.pace_N5, self.config)
        shortcut = self.shortcut if self.shortcut is not None else bias_NE.new_zeros(1, self.config.scales)
        cell = self.parameter_rnn
        update_P, hidden_HP, mean_SP, square_SP, *rest, sums_NF = _Pass.apply(
            library(self.config), [*self._segments(layout), floor_N], gradient_P,
            hidden_PH.T, mean_PS.T, square_PS.T, *flat, bias_NE,
            cell.input, cell.gates, cell.candidate, self.readout, self.readout_bias, shortcut,
            self.rate_momentum.sigmoid(), self.step_offset,
        )  # fmt: skip
        upper = self.upward(sums_NF, layout.counts_N(sums_NF), state, layout)
        slots = Slots(hidden_HP.T, mean_SP.T, square_SP.T, *rest)
        size_N = layout.tensor_mean(gradient_P.abs().clamp(max=LARGEST))
        pace_N5 = next_pace(state.pace_N5, layout.tensor_mean(slots.log_rate_P.detach()), size_N)
        return Step(update_P, None), OptimizerState(slots, *upper, pace_N5)

    def _usable(self, gradient_P: Tensor) -> bool:
        on_cpu = gradient_P.device.type == "cpu" and gradient_P.dtype == self.readout.dtype == torch.float32
        plain = on_cpu and not gradient_P.requires_grad and not self.config.attention
        return self.native and plain and why_not(self.config) is None

    def _segments(self, layout: Layout) -> list[Tensor]:
        """A layout as native_training.cpp wants it, kept for the next step."""
        if not self._kept or self._kept[0] is not layout:
            cpu, like = torch.device("cpu"), self.readout.detach()
            counts_N, group_N = layout.counts_N(like), layout.problem_of_N(cpu).int()
            if self.config.relative_rate == "tensor":
                group_N = torch.arange(layout.tensor_count, dtype=torch.int32)
            groups = int(group_N.max()) + 1 if len(group_N) else 0
            group_counts = torch.zeros(groups).index_add(0, group_N, counts_N)
            rms = self.config.normalise == "rms"
            factor_N = torch.ones_like(counts_N) if rms else counts_N.clamp_min(1).rsqrt()
            self._kept = (layout, [layout.tensor_of_P(cpu).int(), group_N, counts_N, group_counts, factor_N])
        return self._kept[1]


class _Pass(torch.autograd.Function):
    """native_training.cpp's two functions. What it is given: see there; gradients go to all from the slots on."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, code: ctypes.CDLL, segments: list[Tensor], *given: Tensor
    ) -> tuple[Tensor, ...]:
        given = tuple(tensor.contiguous() for tensor in given)
        gradient_P, slots, bias_NE, weight_EF = given[0], given[1:7], given[7], given[8]
        sizes = (ctypes.c_int64 * 3)(len(gradient_P), len(bias_NE), len(segments[3]))
        update_P, scale_N = torch.empty_like(gradient_P), gradient_P.new_empty(len(bias_NE))
        new = [torch.empty_like(slot) for slot in slots]
        sums_NF = gradient_P.new_zeros(len(bias_NE), len(slots[0]) + weight_EF.shape[1])
        kept = [update_P, scale_N, torch.empty_like(gradient_P)]
        code.training_forward(_pointers([*segments, *given]), _pointers([*kept, *new, sums_NF]), sizes)
        ctx.save_for_backward(*given, update_P, scale_N)
        ctx.code, ctx.segments, ctx.sizes = code, segments, sizes
        ctx.set_materialize_grads(False)
        return (update_P, *new, sums_NF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *incoming: Tensor | None) -> tuple[Tensor | None, ...]:
        *given, update_P, scale_N = ctx.saved_tensors
        # what comes from above must outlive the call
        incoming = tuple(None if one is None else one.contiguous() for one in incoming)
        found = [torch.empty_like(one) for one in given[1:]]
        found[6].zero_()  # of biases: added to
        ctx.code.training_backward(
            _pointers([*ctx.segments, *given]), _pointers([update_P, scale_N, None] + [None] * 7),
            _pointers(incoming), _pointers(found), ctx.sizes,
        )  # fmt: skip
        return None, None, None, *found


def _pointers(tensors: Any) -> ctypes.Array[ctypes.c_void_p]:
    found = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    return (ctypes.c_void_p * len(found))(*found)


def why_not(config: HierarchicalRNNConfig) -> str | None:
    """Why there is no compiled pass for a configuration, None where there is one; the first call compiles it."""
    found = _load(config)
    return found if isinstance(found, str) else None


def library(config: HierarchicalRNNConfig) -> ctypes.CDLL:
    """The compiled pass."""
    found = _load(config)
    assert not isinstance(found, str), found
    return found


@functools.cache
def _load(config: HierarchicalRNNConfig) -> ctypes.CDLL | str:
    if os.environ.get(native_build.SWITCH, "") == "0":
        return f"it is switched off by {native_build.SWITCH}=0"
    try:
        code = ctypes.CDLL(str(native_build.build("training", SOURCES, native_build.definitions(config))))
    except (native_build.BuildError, OSError, subprocess.SubprocessError) as error:
        log.warning("meta-training goes on without its compiled pass, some ten times slower: %s", error)
        return str(error)
    for function, pointers in ((code.training_forward, 3), (code.training_backward, 5)):
        function.argtypes = [ctypes.c_void_p] * pointers
        function.restype = None
    return code

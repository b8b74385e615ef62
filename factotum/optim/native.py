r"""The per-scalar part of a step as one C++ pass over memory, for use (not meta-training) on a CPU.

It computes what `HierarchicalRNNCore.sweep` and `finish` compute, in single precision whatever the state's and the
gradient's types, reading and writing each number of the state once:

    kernel = pack(core)                        # once; again when the weights change
    sums_NK = sweep_(kernel, gradients, slots, bias_NE, mean_log_rate_N, floor_N, steps)        # slots and steps change
    rms_N, _ = core.scales(sums_NK, counts_N)
    finish_(parameters, steps, lr / rms_N)     # theta <- theta - lr / rms * step

Where there is no compiler `available` is False and `why_not` says why; nothing else changes for the caller.
Letters: N tensors, P scalars of one, H units, S time scales, E = 3H, K sums; `...` a parameter's shape.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factotum.core.checks import UserError
from factotum.optim.config import HierarchicalRNNConfig
from factotum.optim.features import LARGEST
from factotum.optim.model import GREATEST_DECAY, LEAST_DECAY, LOG_STEP_LIMIT, HierarchicalRNNCore, Slots
from factotum.optim.native_build import BuildError, library

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""What gradients, parameters and slots can be kept in; numbers as in native.cpp."""

LOG2E = 1.4426950408889634
SCALARS_A_THREAD = 16384
"""Fewer are not worth another thread."""


@dataclass(frozen=True)
class Kernel:
    """Compiled code for a configuration, and a core's weights in its order. Made by `pack`."""

    config: HierarchicalRNNConfig
    library: ctypes.CDLL
    weights: Tensor


def why_not(config: HierarchicalRNNConfig | None = None) -> str | None:
    """Why there is no kernel for a configuration, in one line; None where there is one.

    The first call compiles it (seconds).

    Args:
        config: by default that of the shipped weights.
    """
    try:
        library(config or HierarchicalRNNConfig())
    except BuildError as error:
        return str(error)
    return None


def available(config: HierarchicalRNNConfig | None = None) -> bool:
    """Whether the kernel can be used for a configuration on this machine; the first call compiles it."""
    return why_not(config) is None


def pack(core: HierarchicalRNNCore) -> Kernel:
    """The kernel of a core: its weights are copied, later changes of the core are not seen.

    Raises:
        UserError: the kernel is not available.
    """
    try:
        found = library(core.config)
    except BuildError as error:
        raise UserError(f"the native kernel is not available: {error}") from error
    kernel = Kernel(core.config, found, packed_weights(core))
    assert found.weight_count() == kernel.weights.numel()
    return kernel


@torch.no_grad()
def packed_weights(core: HierarchicalRNNCore) -> Float[Tensor, " W"]:
    """struct Weights of native.cpp, which the kernels of a GPU have too (without attention).

    Logits times -log2(e), the candidate times 2 log2(e), so that 2^x is enough. The kernel knows differences of log
    magnitudes to the first, D_s = gamma_s - gamma_0, as gammas add up to 0: sum w_s gamma_s = sum (w_s - mean w) D_s.
    """
    cell, H, S = core.parameter_rnn, core.config.parameter_units, core.config.scales
    carried = torch.cat([cell.gates, cell.candidate])
    gates = torch.cat([cell.input, carried], 1).double().unflatten(0, (3, H)).transpose(1, 2)
    first = core.config.features - S - 1
    gammas = gates[:, first : first + S]
    differences = (gammas - gammas.mean(1, keepdim=True))[:, 1:]
    gates = torch.cat([gates[:, :first], differences, gates[:, first + S :]], 1)
    readouts = len(core.readout)
    factors = torch.tensor([1.0, -LOG2E, -LOG2E, 1.0, 1.0][:readouts], dtype=torch.float64)
    readout_bias = torch.zeros(readouts, dtype=torch.float64)
    readout_bias[:3] = core.readout_bias.double()
    shortcut = torch.zeros(S, readouts, dtype=torch.float64)
    if core.shortcut is not None:
        shortcut[:, 3:] = core.shortcut.double().T
    scalars = [
        float(core.rate_momentum.double().sigmoid()), float(core.step_offset),
        LOG_STEP_LIMIT, LARGEST, LEAST_DECAY, GREATEST_DECAY,
    ]  # fmt: skip
    parts = [
        gates * torch.tensor([-LOG2E, -LOG2E, 2 * LOG2E], dtype=torch.float64)[:, None, None],
        core.readout.double().T * factors, readout_bias * factors, shortcut,
        torch.tensor(scalars, dtype=torch.float64),
    ]  # fmt: skip
    return torch.cat([part.cpu().flatten() for part in parts]).float()


def fits(*tensors: Tensor) -> bool:
    """Whether the kernel can work on these tensors' memory: on the CPU, dense in row order, of a type it knows.

    >>> fits(torch.zeros(2, 3)), fits(torch.zeros(2, 3).T), fits(torch.zeros(2, dtype=torch.float64))
    (True, False, False)
    """
    return all(
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype in TYPES
        and tensor.is_contiguous()
        for tensor in tensors
    )


@torch.no_grad()
def sweep_(
    kernel: Kernel,
    gradients: Sequence[Float[Tensor, " ..."]],
    slots: Sequence[Slots],
    bias_NE: Float[Tensor, "N E"],
    mean_log_rate_N: Float[Tensor, " N"],
    floor_N: Float[Tensor, " N"],
    steps: Sequence[Float[Tensor, " ..."]],
    attended: Sequence[Float[Tensor, " ..."]] | None = None,
    *,
    seed: int | None = None,
) -> Float[Tensor, "N K"]:
    r"""`HierarchicalRNNCore.sweep` for N tensors; slots are changed in place.

    Args:
        kernel: of `pack`.
        gradients: one of each tensor, float32, bfloat16 or float16.
        slots: of each tensor, with the parameter's shape last: hidden (H, ...), gradient and square (S, ...), the
            others (...); each float32 or bfloat16.
        bias_NE: of `HierarchicalRNNCore.biases`.
        mean_log_rate_N: what log learning rates are relative to.
        floor_N: the least that they may be after the step.
        steps: float32, filled with $e^{\eta + c} d$, to be divided by the tensor's scale.
        attended: with attention: float32, filled with $e^{\eta}$ times the attended direction.
        seed: of the chance by which bfloat16 slots are rounded, different in every step; None rounds them to the
            nearest, by which averages with decays near 1 stand still.

    Returns:
        sums over each tensor, as `HierarchicalRNNCore.sum_names` says; the same whatever the number of threads.

    Raises:
        UserError: tensors that the kernel cannot work on, or of other sizes; nothing is changed.
    """
    gradients = [gradient.contiguous() for gradient in gradients]
    further = attended if attended is not None else [None] * len(steps)
    counts = {
        len(gradients),
        len(slots),
        len(steps),
        len(further),
        len(bias_NE),
        len(mean_log_rate_N),
        len(floor_N),
    }
    if len(counts) != 1 or (attended is not None) != kernel.config.attention:
        raise UserError(
            f"sweep_: expected as many of everything, attended {'with' if kernel.config.attention else 'without'} "
            f"attention, got {len(gradients)} gradients, {len(slots)} slots, {len(steps)} steps, "
            f"{0 if attended is None else len(attended)} attended, {len(bias_NE)} biases"
        )
    jobs = [_job(kernel.config, *parts) for parts in zip(gradients, slots, steps, further, strict=True)]
    rows = (bias_NE, mean_log_rate_N, floor_N)
    biases, means, floors = (x.detach().to("cpu", torch.float32).contiguous() for x in rows)
    if biases.shape[1:] != (3 * kernel.config.parameter_units,):
        raise UserError(
            f"sweep_: expected biases of {3 * kernel.config.parameter_units}, got {tuple(biases.shape)}"
        )
    sums_NK = torch.empty(len(jobs), kernel.library.sum_count(), dtype=torch.float32)
    table = torch.tensor(jobs, dtype=torch.int64)
    _check_memory(
        kernel.library.sweep(
            kernel.weights.data_ptr(), table.data_ptr(), len(jobs), biases.data_ptr(), means.data_ptr(),
            floors.data_ptr(), sums_NK.data_ptr(), -1 if seed is None else seed % 2**62, _threads(gradients),
        )
    )  # fmt: skip
    return sums_NK


def _job(
    config: HierarchicalRNNConfig, gradient: Tensor, slots: Slots, step: Tensor, attended: Tensor | None
) -> list[int]:
    size, leading = gradient.numel(), (config.parameter_units, config.scales, config.scales, 1, 1, 1)
    arrays = [gradient, *slots]
    wanted = [size, *(lead * size for lead in leading), size, size]
    outputs = [step] if attended is None else [step, attended]
    everything = [*arrays, *outputs]
    if not fits(*everything) or any(output.dtype != torch.float32 for output in outputs):
        found = ", ".join(
            f"{x.dtype} on {x.device}{'' if x.is_contiguous() else ' strided'}" for x in everything
        )
        raise UserError(
            f"sweep_: expected dense float32 (slots also bfloat16) tensors on the CPU, got {found}"
        )
    if any(x.numel() != count for x, count in zip(everything, wanted, strict=False)):
        raise UserError(
            f"sweep_: expected slots and steps for {size} scalars, got {[tuple(x.shape) for x in everything]}"
        )
    pairs = [number for x in arrays for number in (x.data_ptr(), TYPES[x.dtype])]
    return [size, *pairs, step.data_ptr(), 0 if attended is None else attended.data_ptr()]


@torch.no_grad()
def finish_(
    kernel: Kernel,
    parameters: Sequence[Float[Tensor, " ..."]],
    steps: Sequence[Float[Tensor, " ..."]],
    scale_N: Float[Tensor, " N"],
    kept_N: Float[Tensor, " N"] | float = 1.0,
) -> None:
    r"""$\theta \leftarrow \mathrm{kept}\,\theta - \mathrm{scale} \cdot \mathrm{step}$ in place, rounded once.

    Args:
        kernel: of `pack`.
        parameters: float32, bfloat16 or float16, dense in row order.
        steps: of `sweep_`.
        scale_N: the learning rate over the tensor's scale; its sign turns round for `maximize`.
        kept_N: 1 - learning rate x weight decay, for all or for each.

    Raises:
        UserError: tensors that the kernel cannot work on, or of other sizes; nothing is changed.
    """
    scales = scale_N.detach().to("cpu", torch.float32).contiguous()
    kept = torch.as_tensor(kept_N, dtype=torch.float32).expand(len(parameters)).contiguous()
    if not len(parameters) == len(steps) == len(scales):
        raise UserError(
            f"finish_: got {len(parameters)} parameters, {len(steps)} steps, {len(scales)} scales"
        )
    for parameter, step in zip(parameters, steps, strict=True):
        if not fits(parameter, step) or step.dtype != torch.float32 or parameter.numel() != step.numel():
            raise UserError(
                "finish_: expected dense tensors on the CPU and a float32 step of the parameter's size, got "
                f"{tuple(parameter.shape)} {parameter.dtype} and {tuple(step.shape)} {step.dtype}"
            )
    rows = [
        [p.numel(), p.data_ptr(), TYPES[p.dtype], s.data_ptr()]
        for p, s in zip(parameters, steps, strict=True)
    ]
    table = torch.tensor(rows, dtype=torch.int64)
    _check_memory(
        kernel.library.finish(
            table.data_ptr(), len(rows), scales.data_ptr(), kept.data_ptr(), _threads(parameters)
        )
    )


def finite(kernel: Kernel, tensors: Sequence[Float[Tensor, " ..."]]) -> Bool[Tensor, " N"]:
    """Whether all numbers of each tensor are finite, in one pass that allocates nothing large.

    Args:
        kernel: of `pack`, of any configuration.
        tensors: float32, bfloat16 or float16; those that are not dense are copied.

    Raises:
        UserError: tensors that the kernel cannot work on.
    """
    tensors = [tensor.detach().contiguous() for tensor in tensors]
    if not fits(*tensors):
        raise UserError(f"finite: expected tensors on the CPU, got {[(x.dtype, x.device) for x in tensors]}")
    table = torch.tensor([[x.numel(), x.data_ptr(), TYPES[x.dtype]] for x in tensors], dtype=torch.int64)
    flags_N = torch.ones(len(tensors), dtype=torch.bool)
    _check_memory(
        kernel.library.finite(table.data_ptr(), len(tensors), flags_N.data_ptr(), _threads(tensors))
    )
    return flags_N


def _threads(tensors: Sequence[Tensor]) -> int:
    total = sum(tensor.numel() for tensor in tensors)
    return max(1, min(torch.get_num_threads(), total // SCALARS_A_THREAD))


def _check_memory(code: Any) -> None:
    if code != 0:
        raise MemoryError("the native kernel could not allocate its sums; nothing was changed")

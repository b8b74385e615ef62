"""Which program steps the scalars? C++ on a CPU, Triton on a GPU, plain torch where neither can.

What it does not know: how each works (native_passes.py, triton_passes.py, passes.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.optim import native, native_passes, triton_passes
from factotum.optim.blocks import Share, Work
from factotum.optim.config import HierarchicalRNNConfig
from factotum.optim.model import HierarchicalRNNCore
from factotum.optim.passes import Passes, TorchPasses
from factotum.optim.sharding import local_part

GPU = "cuda"
"""Kind of device on which Triton is used."""


def why_not(config: HierarchicalRNNConfig) -> str | None:
    """Why there is no kernel for a configuration on this machine, in one line; None where there is one.

    Args:
        config: of the weights.
    """
    if (reason := native.why_not(config)) is None or not torch.cuda.is_available():
        return reason
    on_gpu = _why_not_on_gpu(config)
    return None if on_gpu is None else f"{reason}; on a GPU: {on_gpu}"


def _why_not_on_gpu(config: HierarchicalRNNConfig) -> str | None:
    return "none for weights with attention" if config.attention else triton_passes.why_not(GPU)


def check_suits(parameter: Tensor, gradient: Tensor, config: HierarchicalRNNConfig, name: str) -> None:
    """Refuse a tensor that no kernel can work on.

    Raises:
        UserError: naming what it is, or why there is no kernel on its device.
    """
    part = local_part(parameter)
    on_gpu = part.device.type == GPU
    reason = _why_not_on_gpu(config) if on_gpu else native.why_not(config)
    if reason is not None:
        raise UserError(f"{name}: expected a kernel for {part.device} (fused=True), there is none: {reason}")
    fit = triton_passes.fits(part) if on_gpu else native.fits(part)
    if not fit or gradient.dtype not in native.TYPES:
        kind = "dense" if part.is_contiguous() else "strided"
        raise UserError(
            f"{name}: expected dense float32, bfloat16 or float16 on a CPU or a GPU (fused=True), got a {kind} "
            f"{part.dtype} on {part.device} with a gradient of {gradient.dtype}"
        )


class Programs:
    """The kernels of one optimizer, made when they are first used.

    Args:
        core: whose weights they take at that time.
    """

    def __init__(self, core: HierarchicalRNNCore) -> None:
        self.core = core
        self.native: native_passes.Program | None = None
        self._on_gpu: dict[torch.device, triton_passes.Program] = {}

    @property
    def checker(self) -> native.Kernel | None:
        """What tells finite gradients from others in less time than torch, once it is there."""
        return None if self.native is None else self.native.kernel

    def make(
        self, core: HierarchicalRNNCore, works: Sequence[Work], share: Share, sound: Tensor | None
    ) -> Passes:
        """Both passes over the tensors of one device: by the kernel that suits them all, else in plain torch.

        Args:
            core: on this device.
            works: the tensors.
            share: how plain torch would cut them.
            sound: where this is false, nothing changes; then what is on the device may not be read on the host.
        """
        config = core.config
        if share.device.type == GPU and _why_not_on_gpu(config) is None and triton_passes.suit(works, config):
            if share.device not in self._on_gpu:
                self._on_gpu[share.device] = triton_passes.Program(core, share.device)
            return triton_passes.TritonPasses(self._on_gpu[share.device], works, sound)
        if sound is None and native_passes.suit(works) and native.available(config):
            if self.native is None:
                self.native = native_passes.Program(native.pack(self.core))
            return native_passes.NativePasses(self.native, works)
        return TorchPasses(core, works, share, sound)

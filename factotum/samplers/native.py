"""`single.step` as one call of compiled code, in a fifth of the time. Equality is tested.

Where there is no C++ compiler `why_not` says why, and `single` computes the same in NumPy.
Local letters as in `factotum.samplers.single`.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from factotum.core import native_build
from factotum.samplers.acquisition_state import AcquisitionState
from factotum.samplers.candidates import CENTRES, CLOSER, Snap, draw
from factotum.samplers.history import Observation
from factotum.samplers.single import CPU, KNOWN, PRIOR_LOG_NOISE, SHARPNESS
from factotum.samplers.surrogate import CERTAIN, JITTER, NEAREST, OFFSET, VIEWS

NAMES = ("native.cpp", "native_scene.h", "native_process.h", "native_vectors.h")
SOURCES = tuple(Path(__file__).with_name(name) for name in NAMES)
CONSTANTS = {
    "CENTRES": CENTRES,
    "CERTAIN": CERTAIN,
    "CLOSER": CLOSER,
    "JITTER": JITTER,
    "KNOWN": KNOWN,
    "NEAREST": NEAREST,
    "OFFSET": OFFSET,
    "PRIOR_LOG_NOISE": PRIOR_LOG_NOISE,
    "SHARPNESS": SHARPNESS,
    "VIEWS": VIEWS,
}

Weights = ctypes.Array[ctypes.c_void_p]
SnapInPlace = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_double), ctypes.c_int64)

Ready = tuple[ctypes.CDLL, Weights]
"""Compiled code, and where a core's weights are."""

log = logging.getLogger("factotum.samplers")


class Told(ctypes.Structure):
    """As in native.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("N", "P", "D", "C", "H", "moves")),
        *((name, ctypes.c_double) for name in ("remaining", "log_noise")),
        *((name, ctypes.c_void_p) for name in ("x", "y", "pending", "log_lengthscale", "quantile")),
        *((name, ctypes.c_void_p) for name in ("uniform", "normal", "proposal", "moved", "moved_noise")),
        ("snap", SnapInPlace),
    )


def why_not() -> str | None:
    """Why there is no compiled code, in one line; None where there is. The first call compiles it (seconds)."""
    found = library()
    return found if isinstance(found, str) else None


def library() -> ctypes.CDLL | str:
    """The compiled code, or why there is none."""
    try:
        native_build.check_switch()
    except native_build.BuildError as error:
        return str(error)
    return _load()


@functools.cache
def _load() -> ctypes.CDLL | str:
    """Asked once a process, and said once."""
    defined = [f"-D{name}={value!r}" for name, value in CONSTANTS.items()]
    try:
        found = ctypes.CDLL(str(native_build.build("proposal", SOURCES, defined)))
    except (native_build.BuildError, OSError, subprocess.SubprocessError) as error:
        log.warning("the sampler runs without its native kernel: %s", error)
        return str(error)
    found.propose.argtypes, found.propose.restype = [Weights, ctypes.POINTER(Told)], None
    return found


def step(core: Any, observation: Observation, state: AcquisitionState) -> tuple[Tensor, AcquisitionState]:
    """`single.step`, for a core that is `ready`."""
    code, weights = core.ready[1]
    (_, N, D), C = state.x_BND.shape, core.config.candidates
    draws = draw(state.draw_seed, (1, C, D), CPU)
    read = [state.x_BND, state.y_BN, state.pending_BPD, state.log_lengthscale_BD, _quantiles(N), *draws]
    read = [tensor.contiguous() for tensor in read]
    x_BD, moved_BD, moved_B = torch.empty(3, 1, D, dtype=torch.float64).unbind()
    observed = observation.observed_B.item()
    failures: list[BaseException] = []
    code.propose(weights, Told(
        N, state.pending_BPD.shape[1], D, C, core.config.width, observed,
        observation.remaining_B.item(), state.log_noise_B.item(),
        *[tensor.data_ptr() for tensor in (*read, x_BD, moved_BD, moved_B)],
        *_in_place(state.snap, D, failures),
    ))  # fmt: skip
    for failure in failures:
        raise failure
    if observed:
        state = state._replace(log_lengthscale_BD=moved_BD, log_noise_B=moved_B[0, :1])
    return x_BD.to(observation.x_BD.dtype), state


def _in_place(snap: Snap | None, D: int, failures: list[BaseException]) -> list[Any]:
    """Snap as the compiled code calls it, which cannot raise; nothing for None."""
    if snap is None:
        return []

    def change(points: Any, count: int) -> None:
        try:
            points_CD = np.ctypeslib.as_array(points, (count, D))
            points_CD[:] = snap(torch.from_numpy(points_CD)[None]).numpy()[0]
        except BaseException as failure:
            failures.append(failure)

    return [SnapInPlace(change)]


@functools.lru_cache(1024)
@torch.inference_mode(False)
def _quantiles(N: int) -> Tensor:
    """Of the normal distribution at k / 2N for k = 0 ... 2N, as `single_surrogate.view` takes them."""
    below = torch.arange(2 * N + 1, dtype=torch.float64)
    return torch.special.ndtri((0.5 / N * below).clamp(0.25 / N, 1 - 0.25 / N))


def ready(core: Any) -> bool:
    """Whether there is compiled code that can read a core's weights; kept as `single` does."""
    address = core.output.weight.data_ptr()
    if core.ready is None or core.ready[0] != address:
        core.ready = (address, _ready(core))
    return core.ready[1] is not None


def _ready(core: Any) -> Ready | None:
    layers = (core.trust, core.move[0], core.move[2], core.own, core.shared, core.hidden, core.output)
    weights = [core.prior_lengthscale, *(part for one in layers for part in (one.weight, one.bias))]
    code = library()
    if isinstance(code, str) or not all(
        one.dtype is torch.float32 and one.is_contiguous() for one in weights
    ):
        return None
    return code, (ctypes.c_void_p * len(weights))(*[one.data_ptr() for one in weights])

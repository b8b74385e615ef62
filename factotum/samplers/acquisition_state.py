"""What does `AcquisitionCore` remember? All points and values, and what it has learnt of lengthscales and noise.

What it does not know: networks, candidates. Local letters: B functions, N points seen, P pending, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from factotum.samplers.candidates import Snap
from factotum.samplers.history import Observation


class AcquisitionState(NamedTuple):
    """State of `AcquisitionCore`; never changed in place."""

    x_BND: Float[Tensor, "B N D"]
    y_BN: Float[Tensor, "B N"]
    pending_BPD: Float[Tensor, "B P D"]
    log_lengthscale_BD: Float[Tensor, "B D"]
    log_noise_B: Float[Tensor, " B"]
    seed: int
    """with the number of the step, it draws the candidates"""
    steps: int
    snap: Snap | None

    @property
    def draw_seed(self) -> int:
        """Of what is drawn in this step."""
        return (self.seed * 1_000_003 + self.steps) % 2**62


def note(observation: Observation, state: AcquisitionState) -> AcquisitionState:
    """The state with what was told; the very first step tells nothing."""
    x_BD, y_B, observed_B, _ = observation
    steps = state.steps + 1
    if bool(observed_B[0]):
        x_BND, y_BN = _with(state.x_BND, x_BD), _with(state.y_BN, y_B)
        return state._replace(x_BND=x_BND, y_BN=y_BN, steps=steps)
    if state.steps == 0:
        return state._replace(steps=steps)
    return state._replace(pending_BPD=_with(state.pending_BPD, x_BD), steps=steps)


def _with(known: Tensor, new: Tensor) -> Tensor:
    if known.device.type == "cpu":
        # a sixth of the time of the line below, at every suggestion
        return torch.from_numpy(np.concatenate([known.numpy(), new.detach().numpy()[:, None]], 1))
    return torch.cat([known, new.detach().to(known)[:, None]], 1)

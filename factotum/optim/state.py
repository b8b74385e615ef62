"""What the learned optimizer carries from step to step, and what a step gives. Nothing here is changed in place.

Letters: P scalars, N tensors, B problems, H units of the parameter RNN, S time scales, T tensor units, G global
units, K sums.
"""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Slots(NamedTuple):
    """What is carried for each scalar; never changed in place."""

    hidden_PH: Float[Tensor, "P H"]
    gradient_PS: Float[Tensor, "P S"]
    """averages of the gradient"""
    square_PS: Float[Tensor, "P S"]
    """averages of their squares"""
    gradient_decay_P: Float[Tensor, " P"]
    square_decay_P: Float[Tensor, " P"]
    log_rate_P: Float[Tensor, " P"]
    """averaged log learning rate"""


class OptimizerState(NamedTuple):
    """What is carried for scalars, tensors and problems."""

    slots: Slots
    tensor_NT: Float[Tensor, "N T"]
    global_BG: Float[Tensor, "B G"]
    pace_N5: Float[Tensor, "N 5"]
    """of each tensor, see `factotum.optim.pace`"""


class Sweep(NamedTuple):
    """Everything that a step computes for each scalar before it knows sums over tensors."""

    direction_P: Float[Tensor, " P"]
    """not yet normalised"""
    attended_P: Float[Tensor, " P"] | None
    """direction of the attended location, not yet normalised"""
    log_step_P: Float[Tensor, " P"]
    """clipped log step length, without the learned offset"""
    slots: Slots
    sums_NK: Float[Tensor, "N K"]
    """sums over each tensor of what `sum_names` says"""


class Step(NamedTuple):
    """The change of the parameters, theta <- theta + update."""

    update_P: Float[Tensor, " P"]
    attended_P: Float[Tensor, " P"] | None
    """where to take the next gradient, as seen from theta before the update (with attention)"""

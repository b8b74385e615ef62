"""One step that gradients flow through, for those who train through the optimizer: nothing of the state is overwritten.

What it does not know: `torch.optim`; meta-training of the rule itself, which calls the core.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.optim.blocks import Work
from factotum.optim.layout import Layout
from factotum.optim.model import HierarchicalRNNCore, OptimizerState, Slots
from factotum.optim.optimizer_state import SCALAR_SLOTS, SWAP
from factotum.optim.passes import rates_of, shrinkage


def advance_differentiably(
    works: Sequence[Work], global_1G: Float[Tensor, "1 G"], core: HierarchicalRNNCore
) -> Float[Tensor, "1 G"]:
    """Step all tensors; state gets new tensors, parameters (which must not be leaves that want gradients) are added to.

    Args:
        works: whole tensors of one device.
        global_1G: state of the problem.
        core: the update rule.

    Returns:
        The next state of the problem.
    """
    sizes = [work.count for work in works]
    layout = Layout.single(sizes)
    tensor_NT = torch.stack([work.state["tensor"] for work in works])
    pace_N5 = torch.stack([work.state["pace"] for work in works])
    state = OptimizerState(_gathered(works), tensor_NT, global_1G, pace_N5)
    parts = [(-work.gradient if work.maximize else work.gradient).reshape(-1) for work in works]
    step, state = core.step(torch.cat(parts).to(core.readout.dtype), state, layout)
    log_rate_N = layout.tensor_mean(state.slots.log_rate_P)
    lr_N = rates_of(works, log_rate_N)
    shrink_N = shrinkage(core, works, lr_N, log_rate_N)
    updates = (step.update_P * layout.to_scalars(lr_N)).split(sizes)
    places = None if step.attended_P is None else (step.attended_P * layout.to_scalars(lr_N)).split(sizes)
    for n, (work, update, shrink) in enumerate(zip(works, updates, shrink_N.unbind(), strict=True)):
        true = work.state[SWAP] if places else work.parameter
        # A copy, because the product's derivative needs what is about to be changed.
        moved = update.view(true.shape) - (shrink * true.clone() if work.weight_decay else 0.0)
        if places:
            work.parameter.copy_(true + places[n].view(true.shape))
            work.state[SWAP] = true + moved
        else:
            true.add_(moved)
    _keep(works, state, log_rate_N, sizes)
    return state.global_BG


def _gathered(works: Sequence[Work]) -> Slots:
    flat = [work.flat_slots() for work in works]
    return Slots(*(torch.cat([slots[name] for slots in flat], -1).movedim(0, -1) for name in SCALAR_SLOTS))


def _keep(works: Sequence[Work], state: OptimizerState, log_rate_N: Tensor, sizes: list[int]) -> None:
    for name, new in zip(SCALAR_SLOTS, state.slots, strict=True):
        for work, part in zip(works, new.movedim(-1, 0).split(sizes, -1), strict=True):
            work.state[name] = part.reshape(work.state[name].shape).to(work.state[name].dtype).contiguous()
    for work, tensor_T, rate, pace_5 in zip(works, state.tensor_NT, log_rate_N, state.pace_N5, strict=True):
        work.state["tensor"], work.state["log_rate_mean"], work.state["pace"] = tensor_T, rate, pace_5
        work.state["step"] = work.state["step"] + 1

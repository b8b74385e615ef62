"""One step of all tensors of a problem, in pieces of bounded size.

First pass: everything per scalar, piece by piece; unnormalised updates wait in one buffer (4 bytes a scalar).
Between: sums are added up over processes, the upper levels step. Second pass: normalise, decay, add.
What it does not know: `torch.optim`, groups of parameters, where state is kept.

Letters: N tensors, K sums, E biases, G units of the global state, P scalars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factotum.optim.blocks import Block, Plan, Share, Work
from factotum.optim.model import HierarchicalRNNCore, OptimizerState, Slots, Sweep
from factotum.optim.optimizer_state import SCALAR_SLOTS, SWAP
from factotum.optim.pace import floor
from factotum.optim.rounding import round_randomly
from factotum.optim.sharding import local_part, sum_over_ranks

CoreOn = Callable[[torch.device], HierarchicalRNNCore]
"""The core with its weights on a device."""


class Passes(Protocol):
    """Both passes over the tensors of one device."""

    def first(self, bias_NE: Tensor, mean_log_rate_N: Tensor, floor_N: Tensor) -> Tensor:
        """Step the slots; sums over each tensor."""

    def second(self, scale_N: Tensor, shrink_N: Tensor, attended_scale_N: Tensor | None = None) -> None:
        """Move the parameters: add the update times `scale`, take away the share `shrink`."""


MakePasses = Callable[[HierarchicalRNNCore, Sequence[Work], Share, Tensor | None], Passes]


@torch.no_grad()
def advance(
    works: Sequence[Work],
    global_1G: Float[Tensor, "1 G"],
    core_on: CoreOn,
    plan: Plan,
    make: MakePasses,
    sound: Bool[Tensor, ""] | None = None,
) -> Float[Tensor, "1 G"]:
    """Step all tensors; parameters and state are changed in place.

    Args:
        works: the tensors, those on one device behind each other.
        global_1G: state of the problem.
        core_on: the update rule on a device.
        plan: from `make_plan` for tensors of these sizes.
        make: which passes; `TorchPasses` works everywhere.
        sound: where this is false on the device, nothing changes.

    Returns:
        The next state of the problem.
    """
    home = works[0].parameter.device
    core = core_on(home)
    state = _upper_state(works, global_1G, home)
    mean_N = torch.stack([work.state["log_rate_mean"].to(home) for work in works])
    counts_N = plan.layout.counts_N(mean_N)
    bias_NE = core.biases(state.tensor_NT, state.global_BG, plan.layout)
    if core.config.relative_rate == "problem":
        mean_N = (mean_N @ counts_N / counts_N.sum().clamp_min(1)).expand(len(works))
    floor_N = floor(state.pace_N5, core.config)
    sums, waiting = [], []
    for share in plan.shares:
        passes = make(core_on(share.device), works[share.rows], share, sound)
        rows = (bias_NE, mean_N, floor_N)
        sums.append(passes.first(*(row[share.rows].to(share.device) for row in rows)))
        waiting.append((share, passes))
    sums_NK = torch.cat([part.to(home) for part in sums])
    sum_over_ranks(sums_NK, [work.ranks for work in works])
    tensor_NT, global_BG = core.upward(sums_NK, counts_N, state, plan.layout)
    rate_N = core.log_rates(sums_NK, counts_N)
    lr_N = rates_of(works, counts_N)
    scale_N, attended_N = core.scales(sums_NK, counts_N)
    columns = [lr_N / scale_N, shrinkage(core, works, lr_N, rate_N)]
    columns += [] if attended_N is None else [lr_N / attended_N]
    for share, passes in waiting:
        passes.second(*(column[share.rows].to(share.device) for column in columns))
    _keep_upper(works, tensor_NT, rate_N, core.paces(sums_NK, counts_N, state.pace_N5), sound)
    return global_BG if sound is None else torch.where(sound.to(home), global_BG, state.global_BG)


def rates_of(works: Sequence[Work], like_N: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The learning rate of each tensor, made on the device."""
    runs: list[tuple[float | Tensor, int]] = []
    for work in works:
        if runs and runs[-1][0] is work.lr:
            runs[-1] = (work.lr, runs[-1][1] + 1)
        else:
            runs.append((work.lr, 1))
    return torch.cat([_rate(lr, like_N).expand(count) for lr, count in runs])


def _rate(lr: float | Tensor, like_N: Tensor) -> Tensor:
    return lr.reshape(1).to(like_N) if isinstance(lr, Tensor) else like_N.new_full((1,), lr)


def shrinkage(
    core: HierarchicalRNNCore,
    works: Sequence[Work],
    lr_N: Float[Tensor, " N"],
    log_rate_N: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    r"""What share of each tensor decoupled weight decay takes away, at most 1.

    It is $\mathrm{lr} \cdot \mathrm{weight\_decay} \cdot e^{\bar\eta + c}$, with $\bar\eta$ averaged over the tensor:
    as in AdamW, with the learned learning rate in its learning rate's place. So usual values (0.01 to 0.1) mean what
    they mean there, and a schedule of lr acts on both.

    Args:
        core: whose c is taken.
        works: whose weight decay.
        lr_N: learning rates.
        log_rate_N: means of the averaged log learning rate.
    """
    runs = groupby(work.weight_decay for work in works)
    decay_N = torch.cat([lr_N.new_full((len(list(run)),), decay) for decay, run in runs])
    return (lr_N * decay_N * (log_rate_N + core.step_offset).exp()).clamp(max=1.0)


def _upper_state(works: Sequence[Work], global_1G: Tensor, home: torch.device) -> OptimizerState:
    tensor_NT = torch.stack([work.state["tensor"].to(home) for work in works])
    nothing = Slots(*[tensor_NT.new_zeros(0)] * len(SCALAR_SLOTS))
    pace_N5 = torch.stack([work.state["pace"].to(home) for work in works])
    return OptimizerState(nothing, tensor_NT, global_1G.to(home), pace_N5)


def _keep_upper(
    works: Sequence[Work], tensor_NT: Tensor, rate_N: Tensor, pace_N5: Tensor, sound: Tensor | None
) -> None:
    for name, news in (("tensor", tensor_NT), ("log_rate_mean", rate_N), ("pace", pace_N5)):
        _write([work.state[name] for work in works], list(news.unbind()), sound)
    steps = [work.state["step"] for work in works]
    if sound is None:
        torch._foreach_add_(steps, 1)
    else:
        for step in steps:
            step.add_(sound.to(step))


def _write(olds: list[Tensor], news: list[Tensor], sound: Tensor | None) -> None:
    if sound is not None:
        news = [torch.where(sound.to(o.device), n.to(o), o) for o, n in zip(olds, news, strict=True)]
    torch._foreach_copy_(olds, news)


class TorchPasses:
    """Both passes in plain torch, for any device.

    Args:
        core: the rule, on the device of the tensors.
        works: the tensors of one device.
        share: how they are cut.
        sound: where this is false, nothing changes.
    """

    def __init__(
        self, core: HierarchicalRNNCore, works: Sequence[Work], share: Share, sound: Tensor | None
    ) -> None:
        self.core, self.works, self.blocks = core, works, share.blocks
        self.sound = None if sound is None else sound.to(share.device)
        self.slots = [work.flat_slots() for work in works]
        size = sum(work.parameter.numel() for work in works)
        self.update_P = torch.empty(size, dtype=core.readout.dtype, device=share.device)
        self.attended_P = torch.empty_like(self.update_P) if core.config.attention else None

    def first(
        self,
        bias_NE: Float[Tensor, "N E"],
        mean_log_rate_N: Float[Tensor, " N"],
        floor_N: Float[Tensor, " N"],
    ) -> Float[Tensor, "N K"]:
        """Step the slots; sums over each tensor."""
        sums_NK = bias_NE.new_zeros(len(self.works), len(self.core.sum_names()))
        one = bias_NE.new_ones(())
        for block, gradient_P in zip(self.blocks, self._gradients(), strict=True):
            rows = block.rows
            swept = self.core.sweep(
                gradient_P,
                self._gather(block),
                bias_NE[rows],
                mean_log_rate_N[rows],
                floor_N[rows],
                block.layout,
            )
            sums_NK[rows] += swept.sums_NK
            self.update_P[block.scalars] = self.core.finish(swept.direction_P, swept.log_step_P, one)
            if self.attended_P is not None and swept.attended_P is not None:
                self.attended_P[block.scalars] = -swept.log_step_P.exp() * swept.attended_P
            self._scatter(block, swept)
        return sums_NK

    def _gradients(self) -> Iterator[Tensor]:
        """The flat gradient of each block; at most one strided tensor is copied at a time."""
        held: dict[int, Tensor] = {}
        for block in self.blocks:
            held = {n: flat for n, flat in held.items() if n == block.first}
            parts = []
            for n, (a, b) in enumerate(block.parts, block.first):
                if n not in held:
                    held[n] = self.works[n].gradient.reshape(-1)
                part = held[n][a:b].to(self.update_P.dtype)
                parts.append(-part if self.works[n].maximize else part)
            yield parts[0] if len(parts) == 1 else torch.cat(parts)

    def _gather(self, block: Block) -> Slots:
        joined = []
        for name in SCALAR_SLOTS:
            views = self._views(block, name)
            joined.append((views[0] if len(views) == 1 else torch.cat(views, -1)).movedim(0, -1))
        return Slots(*joined)

    def _views(self, block: Block, name: str) -> list[Tensor]:
        return [self.slots[n][name][..., a:b] for n, (a, b) in enumerate(block.parts, block.first)]

    def _scatter(self, block: Block, swept: Sweep) -> None:
        sizes = [b - a for a, b in block.parts]
        olds, news = [], []
        for row, (name, new) in enumerate(zip(SCALAR_SLOTS, swept.slots, strict=True)):
            wide = new.movedim(-1, 0) if new.dim() > 1 else new
            views = self._views(block, name)
            if views[0].dtype == torch.bfloat16:
                steps = torch.stack([work.state["step"] for work in self.works[block.rows]])
                step_P = block.layout.to_scalars(steps.to(wide.device))
                wide = round_randomly(wide, step_P, block.offset, row)
            olds += views
            news += wide.split(sizes, -1)
        _write(olds, news, self.sound)

    def second(
        self,
        scale_N: Float[Tensor, " N"],
        shrink_N: Float[Tensor, " N"],
        attended_scale_N: Float[Tensor, " N"] | None = None,
    ) -> None:
        """Move the parameters: add the update times `scale`, take away the share `shrink`."""
        attended = self.attended_P is not None
        targets = [local_part(work.state[SWAP]) if attended else work.parameter for work in self.works]
        parts = self._scaled(self.update_P, scale_N, targets)
        if self.sound is not None:
            shrink_N = torch.where(self.sound, shrink_N, 0.0)
        for work, part, target, shrink in zip(self.works, parts, targets, shrink_N.unbind(), strict=True):
            if work.weight_decay:
                part.addcmul_(target, shrink, value=-1)
        if self.attended_P is not None and attended_scale_N is not None:
            places = self._scaled(self.attended_P, attended_scale_N, targets)
            torch._foreach_add_(places, targets)
            _write([work.parameter for work in self.works], places, self.sound)
        torch._foreach_add_(targets, parts)

    def _scaled(self, flat_P: Tensor, scale_N: Tensor, like: list[Tensor]) -> list[Tensor]:
        for block in self.blocks:
            part = flat_P[block.scalars]
            part.mul_(block.layout.to_scalars(scale_N[block.rows]))
            if self.sound is not None:
                part.copy_(torch.where(self.sound, part, 0.0))
        parts = flat_P.split([tensor.numel() for tensor in like])
        return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]

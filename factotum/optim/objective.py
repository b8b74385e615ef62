"""What is it trained to do? Lower the losses of many problems at once, at every step, on a logarithmic scale.

Unrolls are differentiable in the core's weights. What it does not know: where problems come from. They are
arguments: anything with the two methods of `Tasks`, or batched copies of problems, which `TaskGroup` lays flat.

Letters: P scalars, B problems, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.core.checks import UserError
from factotum.optim.features import LARGEST
from factotum.optim.layout import Layout
from factotum.optim.model import HierarchicalRNNCore, OptimizerState, Slots

EPSILON = 1e-6


class Tasks(Protocol):
    """Problems whose parameters lie in one flat vector."""

    layout: Layout

    def loss(self, parameters_P: Tensor) -> Tensor:
        """loss_B on all data, without noise, differentiable."""

    def gradient(
        self, parameters_P: Tensor, generator: torch.Generator, create_graph: bool = False
    ) -> Tensor:
        """gradient_P as an optimizer would get it: of a minibatch, with noise."""


class TaskGroup:
    """Batched copies of several problems as one flat vector; a `Tasks`.

    Args:
        instances: each with `batch` (copies), `problem.shapes`, `problem.minimum`, `initial`, `loss`, `gradient`.

    Attributes:
        layout: tensors and problems; problems are numbered through the instances.
        minimum_B: lowest values where they are known and negative, else 0.
    """

    def __init__(self, instances: Sequence[Any]) -> None:
        self.instances = tuple(instances)
        self.layout = Layout.joined(Layout.copies(one.problem.shapes, one.batch) for one in self.instances)
        lowest = [min(one.problem.minimum or 0.0, 0.0) for one in self.instances for _ in range(one.batch)]
        self.minimum_B = torch.tensor(lowest)

    def initial(self, generator: torch.Generator) -> Float[Tensor, " P"]:
        """Random parameters."""
        return self.pack([one.initial(generator) for one in self.instances])

    def pack(self, parameters: Sequence[Sequence[Tensor]]) -> Float[Tensor, " P"]:
        """The flat vector of the instances' tensors (B, *shape)."""
        return torch.cat([tensor.reshape(-1) for tensors in parameters for tensor in tensors])

    def unpack(self, parameters_P: Float[Tensor, " P"]) -> list[tuple[Tensor, ...]]:
        """The instances' tensors (B, *shape), views of the flat vector."""
        shapes = [(one.batch, *shape) for one in self.instances for shape in one.problem.shapes]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        views = iter(part.view(s) for part, s in zip(parameters_P.split(sizes), shapes, strict=True))
        return [tuple(next(views) for _ in one.problem.shapes) for one in self.instances]

    def loss(self, parameters_P: Float[Tensor, " P"]) -> Float[Tensor, " B"]:
        """Losses of all problems."""
        parts = zip(self.instances, self.unpack(parameters_P), strict=True)
        return torch.cat([one.loss(tensors) for one, tensors in parts])

    def gradient(
        self, parameters_P: Float[Tensor, " P"], generator: torch.Generator, create_graph: bool = False
    ) -> Float[Tensor, " P"]:
        """Gradients of all problems."""
        parts = zip(self.instances, self.unpack(parameters_P), strict=True)
        return self.pack([one.gradient(tensors, generator, create_graph) for one, tensors in parts])


class Run(NamedTuple):
    """Problems on their way, and the optimizer with them."""

    parameters_P: Float[Tensor, " P"]
    attended_P: Float[Tensor, " P"] | None
    """where gradients are taken, if elsewhere"""
    state: OptimizerState


class Unrolled(NamedTuple):
    """What came of some steps."""

    losses_TB: Float[Tensor, "T B"]
    """after each step"""
    run: Run


def start(
    core: HierarchicalRNNCore,
    layout: Layout,
    parameters_P: Float[Tensor, " P"],
    generator: torch.Generator | None,
) -> Run:
    """A run from these parameters; the generator draws initial learning rates."""
    attended_P = parameters_P if core.config.attention else None
    return Run(parameters_P, attended_P, core.initial_state(layout, generator))


def detached(run: Run) -> Run:
    """The same without gradients into what was before."""
    slots, tensor_NT, global_BG, pace_N5 = run.state
    state = OptimizerState(
        Slots(*(slot.detach() for slot in slots)), tensor_NT.detach(), global_BG.detach(), pace_N5
    )
    attended_P = None if run.attended_P is None else run.attended_P.detach()
    return Run(run.parameters_P.detach(), attended_P, state)


def unroll(
    core: HierarchicalRNNCore,
    tasks: Tasks,
    run: Run,
    steps: int,
    generator: torch.Generator,
    *,
    second_derivatives: bool = False,
    truncation: int = 0,
) -> Unrolled:
    r"""Optimize the problems for some steps: $\theta_{t+1} = \theta_t + \mathrm{core}(\nabla f(\theta_t))$.

    A problem that leaves what numbers can express stays there: its losses say so, its gradients are told to the
    core as 0, and entries of gradients through time that are not finite are dropped, so that the other problems'
    meta-gradients stay usable.

    Args:
        core: the update rule.
        tasks: the problems.
        run: where they are.
        steps: T.
        generator: draws minibatches and noise.
        second_derivatives: differentiate through the gradients too (paper); else they are taken as data.
        truncation: steps after which gradients through time are cut, 0 for never.

    Returns:
        Losses after each step, and where the problems are then.

    Raises:
        UserError: fewer than one step, or parameters that do not fit the layout.
    """
    if steps < 1 or truncation < 0:
        raise UserError(f"unroll: expected steps >= 1 and truncation >= 0, got {steps} and {truncation}")
    if run.parameters_P.shape != (tasks.layout.scalar_count,):
        raise UserError(
            f"unroll: expected {tasks.layout.scalar_count} parameters, got {tuple(run.parameters_P.shape)}"
        )
    losses = []
    for t in range(steps):
        if truncation and t and t % truncation == 0:
            run = detached(run)
        run = _advance(core, tasks, run, generator, second_derivatives)
        losses.append(tasks.loss(run.parameters_P))
    return Unrolled(torch.stack(losses), run)


def _advance(
    core: HierarchicalRNNCore, tasks: Tasks, run: Run, generator: torch.Generator, second: bool
) -> Run:
    at_P = run.parameters_P if run.attended_P is None else run.attended_P
    second = second and at_P.requires_grad and torch.is_grad_enabled()
    gradient_P = tasks.gradient(at_P if second else at_P.detach(), generator, create_graph=second)
    gradient_P = torch.nan_to_num(gradient_P if second else gradient_P.detach(), 0.0, LARGEST, -LARGEST)
    step, state = core.step(gradient_P, run.state, tasks.layout)
    parameters_P = _without_bad_slopes(run.parameters_P + step.update_P)
    attended_P = None if step.attended_P is None else _without_bad_slopes(run.parameters_P + step.attended_P)
    return Run(parameters_P, attended_P, state)


def _without_bad_slopes(x_P: Tensor) -> Tensor:
    if x_P.requires_grad:
        x_P.register_hook(lambda slope_P: torch.nan_to_num(slope_P, 0.0, 0.0, 0.0))
    return x_P


def log_loss_objective(
    losses_TB: Float[Tensor, "T B"], first_B: Float[Tensor, " B"], minimum_B: Tensor | float | None = None
) -> Float[Tensor, " B"]:
    r"""Mean log loss of each problem, relative to its start.

    $\frac1T \sum_t \log(\ell_t / (\ell_0 + \epsilon) + \epsilon)$ with $\epsilon = 10^{-6}$. Where the lowest
    value is known and negative it is subtracted before.

    Args:
        losses_TB: losses after each step.
        first_B: losses where the whole run started, of the first of all its unrolls.
        minimum_B: known lowest values; those above 0 are not subtracted.

    Raises:
        UserError: a loss below 0, after the subtraction.

    >>> log_loss_objective(torch.tensor([[1.0], [0.01]]), torch.tensor([1.0])).round(decimals=2)
    tensor([-2.3000])

    Wichrowska et al., 2017 (arXiv 1703.04813), section 4.2, and its released code.

    Differs from the paper: each point that a step leads to counts once; the released code counts the start twice
    and leaves the last point out.
    """
    losses_TB, first_B = losses_TB[:], first_B.detach()
    if minimum_B is not None:
        lowest = torch.as_tensor(minimum_B).to(losses_TB).clamp_max(0.0)
        losses_TB, first_B = losses_TB - lowest, first_B - lowest
    if bool((torch.cat([losses_TB.detach(), first_B[None]]) < -1e-3).any()):
        raise UserError(
            f"objective: expected losses of 0 or more, got {losses_TB.detach().nan_to_num(0.0).min().item():.4g}; "
            "give the problem's minimum"
        )
    # below 0 by rounding alone
    ratio_TB = losses_TB.clamp_min(0.0) / (first_B.clamp_min(0.0) + EPSILON)
    return (ratio_TB + EPSILON).log().mean(0)


class MetaOutcome(NamedTuple):
    """An unroll and what it is worth."""

    objective_B: Float[Tensor, " B"]
    losses_TB: Float[Tensor, "T B"]
    run: Run
    """detached: where the next unroll goes on"""


@dataclass(frozen=True)
class MetaObjective:
    """The mean log loss of an unroll, differentiable in the core's weights.

    Args:
        second_derivatives: see `unroll`.
        truncation: see `unroll`.

    Wichrowska et al., 2017 (arXiv 1703.04813), section 4.
    """

    second_derivatives: bool = False
    truncation: int = 0

    def __call__(
        self,
        core: HierarchicalRNNCore,
        tasks: Tasks,
        run: Run,
        steps: int,
        generator: torch.Generator,
        *,
        first_B: Float[Tensor, " B"],
        minimum_B: Tensor | float | None = None,
    ) -> MetaOutcome:
        """One unroll from `run`; arguments as for `unroll` and `log_loss_objective`."""
        done = unroll(
            core, tasks, run, steps, generator,
            second_derivatives=self.second_derivatives, truncation=self.truncation,
        )  # fmt: skip
        objective_B = log_loss_objective(done.losses_TB, first_B, minimum_B)
        return MetaOutcome(objective_B, done.losses_TB.detach(), detached(done.run))


def finite_mean(objective_B: Float[Tensor, " B"]) -> Float[Tensor, ""]:
    """Mean over the problems whose objective is finite; 0 if there is none.

    >>> finite_mean(torch.tensor([1.0, torch.nan, 3.0])).item()
    2.0
    """
    finite_B = objective_B.isfinite()
    return torch.where(finite_B, objective_B, 0.0).sum() / finite_B.sum().clamp_min(1)

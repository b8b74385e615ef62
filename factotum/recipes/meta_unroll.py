"""Running groups of problems, unrolled under a core: what `factotum.training.meta` calls a group of worlds.

Local letters: P scalars, N tensors, B problems, K blocks, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from factotum.core.seeding import torch_generator
from factotum.core.trees import tree_leaves
from factotum.optim.model import OptimizerState, Slots
from factotum.recipes.meta_objective import EPSILON, Curve, UnrollObjective
from factotum.recipes.meta_problems import Block, FlatProblems
from factotum.training.meta_gradient import Call, State, Unrolled

ROWS = {"first": "problem", "state/6": "tensor", "state/7": "problem", "state/8": "tensor"}
"""What has a row each, of all that is carried; scalars where nothing is said."""


class ProblemGroup:
    """Blocks of problems that run under a core, all as one batch.

    Args:
        blocks: kinds and copies.
        objective: see there.
        device: where it runs.
        weight: how often it is chosen, relative to other groups.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        objective: UnrollObjective,
        device: torch.device | str = "cpu",
        weight: float = 1.0,
    ):
        self.problems, self.objective, self.weight = FlatProblems(blocks, device), objective, weight
        self.blocks, self.layout, self.device = len(blocks), self.problems.layout, torch.device(device)
        self.families = [block.problem.family for block in blocks]

    def unroll(self, model: Any, state: State, call: Call, *, learn: bool) -> Unrolled:
        """Go on for some steps; see `factotum.training.meta_gradient.Worlds`."""
        self.problems.draw(call.seeds)
        with torch.set_grad_enabled(learn):
            theta_P, carried, own = self._begin(model, state, call)
            generator = torch_generator(call.seed, "inside", device=str(self.device))
            step = self._learn_twice if learn and self.objective.second_derivatives else self._learn
            curve, surrogate, theta_P, carried = step(model, theta_P, carried, own, call.steps, generator)
        loss, loss_K, metrics = self._objective(curve, surrogate, learn)
        first_B, last_B = curve.first_B, curve.loss_TB[-1].detach()
        small_B = last_B <= self.objective.give_up * (first_B + EPSILON)
        broken_B = (small_B & last_B.isfinite()).logical_not()
        after = {
            **{name: own[name] for name in ("units", "factors", "ahead") if name in own},
            **{"theta": theta_P, "first": first_B, "fresh": broken_B},
            **_flat(carried),
        }
        after = {name: tensor.detach() for name, tensor in after.items()}
        metrics["restarted"] = (float(broken_B.sum()), 1.0)
        return Unrolled(loss, loss_K, after, float(call.steps * self.layout.scalar_count), metrics)

    # -- the start of an unroll

    def _begin(self, model: Any, state: State, call: Call) -> tuple[Tensor, OptimizerState, State]:
        """Parameters, the core's state, and what else is carried; fresh where a run starts."""
        starts_K = torch.tensor(call.starts, device=self.device)
        fresh_B = starts_K[self.problems.block_of_B] | state.get(
            "fresh", torch.tensor(True, device=self.device)
        )
        if state and not bool(fresh_B.any()):
            return state["theta"], _nested(state), {**state, "fresh": fresh_B}
        generator = torch_generator(call.seed, "fresh", device=str(self.device))
        new = {
            "theta": self.problems.initial(call.seed),
            "first": torch.zeros(self.layout.problem_count, device=self.device),
            **self._units(generator),
            **_flat(model.initial_state(self.layout, generator)),
        }
        if "ahead" in state:
            new["ahead"] = torch.zeros_like(new["theta"])
        if state:
            new = self._choose(fresh_B, new, state)
        return new["theta"].detach(), _nested(new), {**new, "fresh": fresh_B}

    def _units(self, generator: torch.Generator) -> State:
        """Units of the parameters, and factors on what the core sees of gradients, (P,): mostly 1 and 1."""
        N, B = self.layout.tensor_count, self.layout.problem_count
        own_N = torch.randn(N, generator=generator, device=self.device) * self.objective.parameter_scale
        factor_B = torch.randn(B, generator=generator, device=self.device) * self.objective.loss_scale
        used_B = torch.rand(B, generator=generator, device=self.device) < self.objective.rescaled
        units_P = self.layout.to_scalars(torch.where(self.layout.to_tensors(used_B), own_N.exp(), 1.0))
        factors_P = torch.where(used_B, factor_B.exp(), 1.0)[self.problems.problem_of_P]
        return {"units": units_P, "factors": units_P * factors_P}

    def _choose(self, fresh_B: Tensor, new: State, old: State) -> State:
        """New rows where a problem is fresh."""
        fresh = {
            "scalar": fresh_B[self.problems.problem_of_P],
            "tensor": self.layout.to_tensors(fresh_B),
            "problem": fresh_B,
        }
        masks = {name: fresh[ROWS.get(name, "scalar")] for name in new}
        return {
            name: torch.where(
                masks[name][:, None] if new[name].dim() == 2 else masks[name], new[name], old[name]
            )
            for name in new
        }

    # -- its steps

    def _learn(
        self,
        model: Any,
        theta_P: Tensor,
        carried: OptimizerState,
        own: State,
        steps: int,
        generator: torch.Generator,
    ) -> tuple[Curve, Tensor | None, Tensor, OptimizerState]:
        r"""Gradients count as given, so that $\partial\theta_t = \sum_{s<t} \partial u_s$ and the meta-gradient is
        $\sum_s \langle \sum_{t>s} c_t \nabla l_t, \partial u_s \rangle$ with $c_t$ the objective's slope in l_t:
        no graph goes through a problem."""
        units_P, factors_P = own["units"], own["factors"]
        seen, updates = [], []
        at_P = theta_P + own["ahead"] if "ahead" in own else None
        for t in range(steps):
            # the start is measured, and the end
            everything = (steps - t) % self.objective.measure_every == 0 or t == 0
            seen.append(self.problems.evaluate(theta_P, generator, at_P, everything=everything))
            gradient_P = (seen[-1].gradient_P * factors_P).nan_to_num(0.0, 0.0, 0.0)
            done, carried = model.step(gradient_P, carried, self.layout)
            update_P = done.update_P * units_P
            updates.append(update_P)
            if done.attended_P is not None:
                at_P = theta_P + (done.attended_P * units_P).detach()
            theta_P = theta_P + update_P.detach()
        if at_P is not None:
            own["ahead"] = at_P - theta_P
        seen.append(self.problems.evaluate(theta_P, generator))
        loss_TB, measured_TB, slope_TP, _ = (torch.stack(parts) for parts in zip(*seen, strict=True))
        curve = Curve(loss_TB[1:], torch.where(own["fresh"], loss_TB[0], own["first"]), measured_TB[1:])
        surrogate = None
        if torch.is_grad_enabled():
            surrogate = self._surrogate(curve, slope_TP[1:], torch.stack(updates))
        return curve, surrogate, theta_P, carried

    def _surrogate(self, curve: Curve, slope_TP: Tensor, update_TP: Tensor) -> Tensor:
        """A number whose gradient is the objective's."""
        given_TB = curve.loss_TB.requires_grad_()
        objective, _, _ = self._mean(curve)
        (weight_TB,) = torch.autograd.grad(objective, given_TB)
        pull_TP = (slope_TP * weight_TB[:, self.problems.problem_of_P]).nan_to_num(0.0, 0.0, 0.0)
        given_TB.requires_grad_(False)
        return (pull_TP.flip(0).cumsum(0).flip(0) * update_TP).sum()

    def _learn_twice(
        self,
        model: Any,
        theta_P: Tensor,
        carried: OptimizerState,
        own: State,
        steps: int,
        generator: torch.Generator,
    ) -> tuple[Curve, None, Tensor, OptimizerState]:
        """With a graph through losses and gradients."""
        units_P, factors_P = own["units"], own["factors"]
        start_B = self.problems.loss(theta_P)
        losses, at_P = [], theta_P + own["ahead"] if "ahead" in own else theta_P
        for _ in range(steps):
            gradient_P = self.problems.gradient(at_P, generator) * factors_P
            gradient_P = torch.where(gradient_P.isfinite(), gradient_P, 0.0)
            done, carried = model.step(gradient_P, carried, self.layout)
            at_P = theta_P + units_P * (done.update_P if done.attended_P is None else done.attended_P)
            theta_P = theta_P + done.update_P * units_P
            losses.append(self.problems.loss(theta_P))
        if done.attended_P is not None:
            own["ahead"] = at_P - theta_P
        loss_TB = torch.stack(losses)
        first_B = torch.where(own["fresh"], start_B, own["first"]).detach()
        return Curve(loss_TB, first_B, torch.ones_like(loss_TB, dtype=torch.bool)), None, theta_P, carried

    # -- its objective

    def _mean(self, curve: Curve) -> tuple[Tensor, Tensor, Tensor]:
        """Mean over blocks of means over their copies; of each block; number of copies that count."""
        value_B, has_B = self.objective(*curve)
        zeros_K = value_B.new_zeros(self.blocks)
        count_K = zeros_K.index_add(0, self.problems.block_of_B, has_B.to(value_B))
        sum_K = zeros_K.index_add(0, self.problems.block_of_B, value_B)
        mean_K = sum_K / count_K.clamp_min(1)
        return mean_K.sum() / (count_K > 0).sum().clamp_min(1), mean_K, count_K

    def _objective(
        self, curve: Curve, surrogate: Tensor | None, learn: bool
    ) -> tuple[Tensor, Tensor, dict[str, tuple[float, float]]]:
        with torch.set_grad_enabled(learn and surrogate is None):
            loss, mean_K, count_K = self._mean(curve)
        if surrogate is not None:
            loss = loss.detach() + (surrogate - surrogate.detach())
        metrics: dict[str, tuple[float, float]] = {}
        found = zip(self.families, mean_K.tolist(), count_K.tolist(), strict=True)
        for family, value, count in found:
            total, weight = metrics.get(f"log_loss/{family}", (0.0, 0.0))
            if count:
                metrics[f"log_loss/{family}"] = ((total * weight + value) / (weight + 1), weight + 1)
        return loss, mean_K.detach(), metrics


def _flat(state: OptimizerState) -> State:
    return {f"state/{index}": tensor for index, tensor in enumerate(tree_leaves(state))}


def _nested(state: State) -> OptimizerState:
    leaves = [state[f"state/{index}"] for index in range(9)]
    return OptimizerState(Slots(*leaves[:6]), *leaves[6:])

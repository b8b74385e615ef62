r"""Who calls it? torch: `HierarchicalRNN` beside `torch.optim.Adam`, with a rule that was learned.

What it does not know: how the rule was learned, losses, models.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.optim.blocks import Plan, Work, make_plan
from factotum.optim.differentiable import advance_differentiably
from factotum.optim.fused import Programs, check_suits
from factotum.optim.gradients import Given, all_finite, check_gradient, require_finite
from factotum.optim.model import HierarchicalRNNCore
from factotum.optim.optimizer_state import GLOBAL, SWAP, check_shape, new_state
from factotum.optim.options import check_group, check_options
from factotum.optim.passes import MakePasses, TorchPasses, advance
from factotum.optim.sharding import groups_of, is_split, local_part
from factotum.optim.state_dict import restored
from factotum.optim.store import load_core, weights_hash

Chosen = tuple[int, int, Tensor]
"""Number of the group, number in the group, parameter."""


class HierarchicalRNN(torch.optim.Optimizer):
    r"""A learned optimizer, used as any of `torch.optim`; no learning rate to tune.

    $$\theta \leftarrow \theta - \mathrm{lr} \cdot e^{\eta + c}\,\hat d$$
    with directions $\hat d$ and log step lengths $\eta$ of three levels of RNNs, see
    `factotum.optim.model.HierarchicalRNNCore`. All parameters of all groups are one problem.

    Args:
        params: parameters, named parameters or groups, as for any optimizer.
        lr: multiplies the learned step; a number or a tensor of one, schedules act on it. 0 moves nothing.
        weight_decay: decoupled: a tensor shrinks by lr * weight_decay * its learned learning rate, so usual values
            of AdamW (0.01 to 0.1) mean what they mean there.
        weights: name of shipped weights, a folder or file that `save_core` wrote, or a core (of which a copy is kept).
        seed: of the random initial learning rates.
        maximize: ascend.
        foreach: False computes tensor by tensor, otherwise small tensors are computed together.
        capturable: never read from the device, so that a step can be captured in a CUDA graph. Gradients that are not
            finite then leave everything as it is, in place of an error.
        differentiable: let gradients flow through the step (through the weights too, if a core was given).
        fused: a kernel, in C++ on a CPU, in Triton on a GPU: None uses it where it can be used, True insists, False
            does without.
        state_dtype: of the state of each scalar: torch.bfloat16 takes half of the memory of torch.float32.
        attention: gradients are taken at attended locations: while training, the parameters are those; call `eval()`
            before the model is evaluated or saved, and `train()` before it is trained on. For weights that know it.

    Raises:
        UserError: options that do not fit, unknown or foreign weights.

    >>> from factotum.optim.config import HierarchicalRNNConfig
    >>> model = torch.nn.Linear(3, 1)
    >>> core = HierarchicalRNNCore(HierarchicalRNNConfig())
    >>> optimizer = HierarchicalRNN(model.parameters(), weights=core)
    >>> model(torch.ones(3)).square().sum().backward()
    >>> optimizer.step()
    >>> optimizer.state[model.weight]["hidden"].shape
    torch.Size([10, 1, 3])

    Wichrowska et al., 2017 (arXiv 1703.04813).

    Differs from the paper: lr, weight decay; gradients that are missing leave their tensor out of the step and of the
    means over the problem.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        *,
        weights: str | Path | HierarchicalRNNCore = "hierarchical-rnn",
        seed: int = 0,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: torch.dtype = torch.float32,
        attention: bool = False,
    ) -> None:
        core = weights if isinstance(weights, HierarchicalRNNCore) else load_core(weights).float()
        options = dict(
            lr=lr, weight_decay=weight_decay, maximize=maximize, foreach=foreach, capturable=capturable,
            differentiable=differentiable, fused=fused, attention=attention,
        )  # fmt: skip
        check_options(options, core, state_dtype)
        self.core = core if differentiable else deepcopy(core).requires_grad_(False)
        self.state_dtype = state_dtype
        self._start()
        identity = dict(seed=seed, weights=weights_hash(core), training=True)
        super().__init__(params, {**options, **identity})

    def _start(self) -> None:
        """What is made anew after copying."""
        self._cores: dict[torch.device, HierarchicalRNNCore] = {}
        self._plans: dict[Any, Plan] = {}
        self._programs = Programs(self.core)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "core": self.core, "state_dtype": self.state_dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        if "core" in state:  # unpickled or copied
            self._start()

    @torch._disable_dynamo
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, also in the middle of a run: they join the problem.

        Raises:
            UserError: options of another optimizer, or values that cannot be.
        """
        check_group(param_group, self.defaults)
        super().add_param_group(param_group)

    def train(self) -> None:
        """Put the attended locations into the parameters, to take gradients there (does nothing without attention)."""
        self._swap(training=True)

    def eval(self) -> None:
        """Put the true parameters in place, to evaluate or save the model (does nothing without attention)."""
        self._swap(training=False)

    @torch.no_grad()
    def _swap(self, training: bool) -> None:
        for group in self.param_groups:
            if group["attention"] and group["training"] != training:
                for parameter in group["params"]:
                    other = self.state.get(parameter, {}).get(SWAP)
                    if other is not None:
                        kept = parameter.detach().clone()
                        parameter.copy_(other)
                        other.copy_(kept)
            group["training"] = training

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step.

        Args:
            closure: evaluates the model again, with gradients, and returns the loss.

        Returns:
            What the closure returned.

        Raises:
            UserError: sparse or complex gradients, gradients that are not finite, changed shapes, a step while
                evaluating with attention; parameters and state are as before.
        """
        self._accelerator_graph_capture_health_check()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            self._advance()
        return loss

    def _advance(self) -> None:
        chosen = self._chosen()
        givens = self._given(chosen)
        if not givens:
            return
        sound = None
        if self._may_not_read():
            sound = all_finite(givens)
        else:
            require_finite(givens, self._programs.checker)
        for group in self.param_groups:
            self._init_group(group)
        works = [self._work(given) for given in givens]
        owner = next(state for state in self.state.values() if GLOBAL in state)
        if self.defaults["differentiable"]:
            next_global = advance_differentiably(works, owner[GLOBAL][None], self.core)
            owner[GLOBAL] = next_global[0]
            return
        plan = self._plan(chosen)
        passes = self._passes()
        owner[GLOBAL].copy_(advance(works, owner[GLOBAL][None], self._core_on, plan, passes, sound)[0])

    def _may_not_read(self) -> bool:
        return torch.compiler.is_compiling() or any(group["capturable"] for group in self.param_groups)

    def _chosen(self) -> list[Chosen]:
        """Parameters that have gradients, with number of group and number in it; those on one device together."""
        found = [
            (n, i, parameter)
            for n, group in enumerate(self.param_groups)
            for i, parameter in enumerate(group["params"])
            if parameter.grad is not None
        ]
        order = {device: n for n, device in enumerate(dict.fromkeys(p.device for _, _, p in found))}
        return sorted(found, key=lambda chosen: order[chosen[2].device]) if len(order) > 1 else found

    def _given(self, chosen: list[Chosen]) -> list[Given]:
        """Parameters with their gradients, checked."""
        givens = []
        for n, i, parameter in chosen:
            group = self.param_groups[n]
            name = group["param_names"][i] if "param_names" in group else f"parameter {i} of group {n}"
            if group["attention"] and not group["training"]:
                raise UserError("step: expected attended parameters; call optimizer.train() after eval()")
            givens.append(Given(name, parameter, check_gradient(parameter, name), n))
            if group["differentiable"] and is_split(parameter):
                raise UserError(f"{name}: expected whole tensors with differentiable=True, got a DTensor")
            if group["fused"]:
                check_suits(parameter, givens[-1].gradient, self.core.config, name)
            if not torch.compiler.is_compiling():  # which must not see the state before `_init_group`
                check_shape(parameter, self.state.get(parameter), name)
        return givens

    def _init_group(self, group: dict[str, Any]) -> None:
        """Make the state of parameters that have a gradient and no state (torch.compile runs it as it is, by name)."""
        before = takewhile(lambda other: other is not group, self.param_groups)
        first = sum(len(other["params"]) for other in before)
        for number, parameter in enumerate(group["params"], first):
            if parameter.grad is None or self.state.get(parameter):
                continue
            state = new_state(self.core, parameter, (group["seed"], "optim", number), self.state_dtype)
            if not group["capturable"]:
                state["step"] = state["step"].cpu()
            if group["attention"]:
                state[SWAP] = parameter.clone()
            if not any(GLOBAL in other for other in self.state.values()):
                start = self.core.global_start.detach()
                state[GLOBAL] = start.to(state["tensor"].device, copy=True)
            self.state[parameter] = state
        if not self._plans:
            self._plan(self._chosen())

    def _work(self, given: Given) -> Work:
        group, parameter = self.param_groups[given.group], given.parameter
        return Work(
            given.name, local_part(parameter), given.gradient, self.state[parameter], parameter.numel(),
            groups_of(parameter), group["lr"], group["weight_decay"], group["maximize"],
        )  # fmt: skip

    def _core_on(self, device: torch.device) -> HierarchicalRNNCore:
        if self.core.readout.device == device:
            return self.core
        if device not in self._cores:
            self._cores[device] = deepcopy(self.core).to(device)
        return self._cores[device]

    def _plan(self, chosen: list[Chosen]) -> Plan:
        """How the tensors that have gradients are cut; kept for the next step."""
        extents = tuple((p.numel(), local_part(p).numel(), p.device) for _, _, p in chosen)
        key = (self.defaults["foreach"] is not False, extents)
        if key not in self._plans:
            if len(self._plans) >= 8:
                self._plans.clear()
            self._plans[key] = make_plan(extents, key[0], self.core.readout.dtype)
        return self._plans[key]

    def _passes(self) -> MakePasses:
        """A kernel where it can be used and is wanted, plain torch otherwise."""
        plain = self.defaults["fused"] is False or self.core.readout.dtype != torch.float32
        return TorchPasses if plain or torch.compiler.is_compiling() else self._programs.make

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state dict; numbers keep their precision whatever the parameters' is.

        Raises:
            UserError: state of another optimizer, of other weights, of other shapes or truncated; groups that do not
                fit. Nothing is changed.
        """
        state_dict = state_dict.copy()
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        self.__setstate__(restored(self, self.core, self.state_dtype, state_dict))
        self.defaults["seed"] = self.param_groups[0]["seed"]  # for parameters that join later
        for done in self._optimizer_load_state_dict_post_hooks.values():
            done(self)

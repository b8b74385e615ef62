"""Small networks and data for the tests of the optimizer's face."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from factotum.core.seeding import torch_generator
from factotum.optim.layout import Layout
from factotum.optim.model import HierarchicalRNNCore, OptimizerState, Slots
from factotum.optim.optimizer import HierarchicalRNN
from tests.optim.toys import wild_core

CORE = wild_core()
"""Untrained, with weights so large that everything depends on everything."""

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
Y = X.sin().sum(1, keepdim=True)


def make_net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)


def make_optimizer(parameters, **options) -> HierarchicalRNN:
    options.setdefault("weights", CORE)
    options.setdefault("fused", False)
    return HierarchicalRNN(parameters, **options)


def loss_of(net: nn.Module, scale: float = 1.0) -> torch.Tensor:
    dtype = next(net.parameters()).dtype
    return (net(X.to(dtype)) - Y.to(dtype)).square().mean() * scale


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> nn.Module:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(net).backward()
        optimizer.step()
    return net


def trained(steps: int = 4, dtype: torch.dtype = torch.float32, **options):
    """A network and its optimizer after some steps."""
    net = make_net(dtype=dtype)
    optimizer = make_optimizer(net.parameters(), **options)
    return train(net, optimizer, steps), optimizer


def flat(net: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def by_the_core(
    net: nn.Module, steps: int, core: HierarchicalRNNCore = CORE
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the core alone makes of a network: where gradients are taken, and the true parameters."""
    parameters = list(net.parameters())
    sizes = [p.numel() for p in parameters]
    layout = Layout.single(sizes)
    state = core.initial_state(layout, None)
    generators = [torch_generator(0, "optim", n) for n in range(len(sizes))]
    rates = [core.initial_log_rates(Layout.single([n]), g) for n, g in zip(sizes, generators, strict=True)]
    state = OptimizerState(Slots(*state.slots[:5], torch.cat(rates)), *state[1:])
    place_P = true_P = flat(net)
    for _ in range(steps):
        nn.utils.vector_to_parameters(place_P, parameters)
        gradient = torch.autograd.grad(loss_of(net), parameters)
        with torch.no_grad():
            step, state = core.step(torch.cat([g.flatten() for g in gradient]), state, layout)
        place_P = true_P + (step.update_P if step.attended_P is None else step.attended_P)
        true_P = true_P + step.update_P
    return place_P, true_P


def snapshot(optimizer: torch.optim.Optimizer) -> tuple[list[torch.Tensor], dict]:
    """Parameters and state, copied."""
    parameters = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]
    return parameters, copy.deepcopy(optimizer.state_dict())


def same(one: tuple[list[torch.Tensor], dict], two: tuple[list[torch.Tensor], dict]) -> bool:
    """Whether two snapshots are equal bit by bit."""
    parameters = all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True))
    return parameters and same_state(one[1], two[1])


def same_state(one: dict, two: dict) -> bool:
    if one["param_groups"] != two["param_groups"] or one["state"].keys() != two["state"].keys():
        return False
    pairs = [(one["state"][p], two["state"][p]) for p in one["state"]]
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


class NoReads(TorchFunctionMode):
    """Refuses every call whose result must be known on the host."""

    READS = ("item", "tolist", "numpy", "cpu", "nonzero", "equal", "allclose", "is_nonzero", "masked_select")
    READS += ("__bool__", "__int__", "__float__", "__index__")

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__ in self.READS:
            raise RuntimeError(f"{function.__name__} reads from the device")
        return function(*args, **(kwargs or {}))

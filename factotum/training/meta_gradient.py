r"""Meta-gradients of unrolled worlds: through time, or by perturbations of the weights.

Local letters: K blocks of a group (worlds that start together), M meta-parameters. Knows no model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from factotum.core.seeding import torch_generator
from factotum.training.meta_config import MetaConfig

State = dict[str, Tensor]


class Call(NamedTuple):
    """What an unroll is to do; with a state it decides all that happens.

    Attributes:
        steps: of the unroll.
        starts: for each block, whether it starts anew: its worlds drawn, its state fresh.
        seeds: for each block, the seed of its worlds, the same until it starts anew.
        seed: of what is random in the unroll itself.
    """

    steps: int
    starts: tuple[bool, ...]
    seeds: tuple[int, ...]
    seed: int


class Unrolled(NamedTuple):
    """What an unroll gave.

    Attributes:
        loss: mean objective over blocks; its gradient is the meta-gradient where that was asked for.
        loss_K: objective of each block, detached; 0 where nothing was finite.
        state: all that the next unroll needs, detached.
        amount: what was worked off, for the rate.
        metrics: name -> (value, weight).
    """

    loss: Tensor
    loss_K: Tensor
    state: State
    amount: float
    metrics: Mapping[str, tuple[float, float]]


class Worlds(Protocol):
    """A group of worlds that a model steps together; its state is all in what `unroll` takes and gives.

    Attributes:
        blocks: K; a block's worlds start together and end together.
        weight: how often the group is chosen, relative to others.
    """

    blocks: int
    weight: float

    def unroll(self, model: nn.Module, state: State, call: Call, *, learn: bool) -> Unrolled:
        """Go on from a state (empty: none yet, every block starts); with a graph if `learn`."""
        ...


@dataclass
class Running:
    """A group with what is carried from unroll to unroll.

    Attributes:
        states: one, or one for each sign of the perturbation (pes).
        sum_KM: perturbations added up since each block's start (pes).
        draws: how often each block was drawn.
        left: unrolls left of each block's run.
        age: steps of each block's run.
    """

    states: list[State]
    draws: list[int]
    left: list[int]
    age: list[int]
    sum_KM: Tensor = field(default_factory=lambda: torch.zeros(0))

    def count(self, steps: int) -> None:
        """Take note of an unroll."""
        self.left = [left - 1 for left in self.left]
        self.age = [age + steps for age in self.age]


class Estimate(NamedTuple):
    """A meta-gradient, one tensor a parameter, and the unroll (of the first sign) that it came from."""

    gradients: list[Tensor]
    unrolled: Unrolled
    amount: float


def estimate(model: nn.Module, worlds: Worlds, running: Running, call: Call, config: MetaConfig) -> Estimate:
    r"""The meta-gradient of one group; `running` goes on.

    bptt: the gradient of the unroll. es: $\frac{\epsilon}{2 \sigma} (L(\theta + \sigma\epsilon) -
    L(\theta - \sigma\epsilon))$ from one state and with the same random numbers, block by block. pes: each sign
    keeps its own states, and $\epsilon$ is replaced by the sum of those that a block has met since its start, which
    takes away the bias of truncation.

    Vicol et al., 2021 (arXiv 2112.13835), sections 3 and 4.

    Differs from the paper: one perturbation serves all worlds of a group, so `groups` is the number of particles.
    """
    if config.estimator == "bptt":
        return _through_time(model, worlds, running, call)
    return _by_perturbation(model, worlds, running, call, config)


def _through_time(model: nn.Module, worlds: Worlds, running: Running, call: Call) -> Estimate:
    done = worlds.unroll(model, running.states[0], call, learn=True)
    running.states = [done.state]
    parameters = trainable(model)
    gradients = list(
        torch.autograd.grad(done.loss, parameters, allow_unused=True, materialize_grads=True)
        if done.loss.requires_grad
        else map(torch.zeros_like, parameters)
    )
    return Estimate(gradients, done._replace(loss=done.loss.detach()), done.amount)


def _by_perturbation(
    model: nn.Module, worlds: Worlds, running: Running, call: Call, config: MetaConfig
) -> Estimate:
    persistent = config.estimator == "pes"
    parameters = trainable(model)
    flat_M = torch.cat([p.detach().reshape(-1) for p in parameters])
    generator = torch_generator(call.seed, "perturbation", device=str(flat_M.device))
    epsilon_M = config.sigma * torch.randn(
        len(flat_M), generator=generator, dtype=flat_M.dtype, device=flat_M.device
    )
    dones = []
    for index, sign in enumerate((1.0, -1.0)):
        state = running.states[index if persistent else 0]
        with _perturbed(parameters, flat_M, sign * epsilon_M):
            dones.append(worlds.unroll(model, state, call, learn=False))
    running.states = [done.state for done in dones] if persistent else [dones[0].state]
    difference_K = dones[0].loss_K - dones[1].loss_K
    if persistent:
        started_K = torch.tensor(call.starts, device=flat_M.device)
        running.sum_KM = epsilon_M + torch.where(started_K[:, None], 0.0, running.sum_KM)
        gradient_M = difference_K.to(flat_M) @ running.sum_KM
    else:
        gradient_M = difference_K.sum().to(flat_M) * epsilon_M
    gradient_M = gradient_M / (2 * config.sigma**2 * len(difference_K))
    parts = gradient_M.split([p.numel() for p in parameters])
    gradients = [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
    return Estimate(gradients, dones[0], dones[0].amount + dones[1].amount)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextlib.contextmanager
def _perturbed(parameters: Sequence[nn.Parameter], flat_M: Tensor, change_M: Tensor) -> Iterator[None]:
    sizes = [p.numel() for p in parameters]
    try:
        _write(parameters, (flat_M + change_M).split(sizes))
        yield
    finally:
        _write(parameters, flat_M.split(sizes))


@torch.no_grad()
def _write(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value.view_as(parameter))

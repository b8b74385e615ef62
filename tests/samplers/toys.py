"""A core and functions small enough to follow by hand."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from factotum.core.gaussian_process import squared_exponential
from factotum.samplers.history import Observation
from factotum.samplers.objective import Process


class Memory(NamedTuple):
    hidden_BH: Tensor
    steps: int


class ToyCore(nn.Module):
    """A plain recurrent network that keeps, beside its state, a diary of what it was told."""

    def __init__(self, dimensions: int = 2, width: int = 5):
        super().__init__()
        self.cell = nn.RNNCell(dimensions + 3, width)
        self.head = nn.Linear(width, dimensions)
        self.diary: list[tuple[Observation, int]] = []

    def initial_state(self, batch_size: int, dimensions: int, generator: torch.Generator) -> Memory:
        width = self.cell.hidden_size
        return Memory(0.1 * torch.randn(batch_size, width, generator=generator).to(self.head.weight), 0)

    def step(self, inputs: Observation, state: Memory) -> tuple[Tensor, Memory]:
        self.diary.append((inputs, state.steps))
        x_BD, y_B, observed_B, remaining_B = inputs
        told_B3 = torch.stack([y_B, observed_B.to(y_B), 1 / remaining_B], 1)
        hidden_BH = self.cell(torch.cat([x_BD, told_B3], 1), state.hidden_BH)
        return torch.sigmoid(4 * self.head(hidden_BH)), Memory(hidden_BH, state.steps + 1)


class Bowls:
    """Quadratics, one a row."""

    def __init__(self, centre_BD: Tensor, noise_B: Tensor | None = None):
        self.centre_BD, self.noise_B = centre_BD, noise_B

    def __call__(self, x_BD: Tensor) -> Tensor:
        return (x_BD - self.centre_BD).square().sum(1)

    def to(self, device: torch.device) -> Bowls:
        return Bowls(self.centre_BD.to(device), None if self.noise_B is None else self.noise_B.to(device))


class Interpolants:
    """Draws of a Gaussian process, known exactly: posterior means of values at fixed points."""

    def __init__(self, batch_size: int, dimensions: int, lengthscale: float, generator: torch.Generator):
        self.process = Process(
            squared_exponential, torch.full((batch_size, dimensions), lengthscale), torch.ones(batch_size)
        )
        self.knots_BND = torch.rand(batch_size, 12, dimensions, generator=generator)
        scale_BD = self.process.lengthscale_BD
        kernel_BNN = squared_exponential(self.knots_BND, self.knots_BND, scale_BD).double()
        factor_BNN = torch.linalg.cholesky(kernel_BNN + 1e-6 * torch.eye(12))
        values_BN1 = factor_BNN @ torch.randn(batch_size, 12, 1, generator=generator).double()
        self.weights_BN1 = torch.cholesky_solve(values_BN1, factor_BNN).float()

    def __call__(self, x_BD: Tensor) -> Tensor:
        kernel_B1N = squared_exponential(x_BD[:, None], self.knots_BND, self.process.lengthscale_BD)
        return (kernel_B1N @ self.weights_BN1)[:, 0, 0]

    def to(self, device: torch.device) -> Interpolants:
        return self

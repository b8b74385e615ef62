"""One network for every number of dimensions: an LSTM shared by the coordinates, which talk through their mean.

What it does not know: functions, losses, search spaces, the paper's cores for one D (`factotum.samplers.plain`).
Local letters: B functions in a batch, D dimensions, F features, H hidden width, P pooled, K tags.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.nn.recurrent import LSTMState, lstm_cell, open_forget_gate
from factotum.samplers.config import SamplerConfig
from factotum.samplers.history import FEATURES, History, Observation, initial_history, observe


class AxialState(NamedTuple):
    """State of `AxialCore`; the coordinates of a function are rows d of B * D in the LSTM's."""

    history: History
    recurrent: LSTMState
    tags_BDK: Float[Tensor, "B D K"]
    """what tells coordinates apart, U(-1, 1), and log D"""
    rates_BD2: Float[Tensor, "B D 2"]
    """how the two noises of a coordinate turn from step to step (double precision)"""
    shifts_BD2: Float[Tensor, "B D 2"]
    """where they start"""
    steps: Float[Tensor, ""]
    """steps made: the counter from which all noise follows"""


class InwardClamp(torch.autograd.Function):
    """Clamp into [0, 1]; outside, gradients that would move the point back inside are kept.

    >>> x = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    >>> InwardClamp.apply(x).tolist(), torch.autograd.grad(InwardClamp.apply(x).sum(), x)[0].tolist()
    ([0.0, 0.5, 1.0], [0.0, 1.0, 1.0])
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The clamped values."""
        ctx.save_for_backward(x)
        return x.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """A descent step goes against the gradient, so above 1 a positive one leads back, below 0 a negative one."""
        (x,) = ctx.saved_tensors
        outward = ((x > 1.0) & (gradient < 0)) | ((x < 0.0) & (gradient > 0))
        return gradient.masked_fill(outward, 0.0)


COORDINATE_INPUTS = 6
"""x, best x, their difference, its order of magnitude, two noises"""

SHARED_INPUTS = FEATURES + 3
"""features of y, o, log and share of the budget left"""


class AxialCore(nn.Module):
    r"""One LSTM for every coordinate: any number of dimensions, equivariant to their order.

    For coordinate d, $h_d = \mathrm{LSTM}(x_d, x^*_d, s, u_d, \mathrm{tag}_d, \bar p;\ h_d)$ with the best point
    $x^*$, the features s of the value and the budget, two noises $u_d$ in [0, 1) and $\bar p$, the mean over
    coordinates of a projection of h. With six numbers a, b, l, g, $\tau_1$, $\tau_2$ that are read off $h_d$, and
    $\epsilon = \mathrm{logit}(u)$,
    $$x_d = \sigma(g)\,\sigma(a + 2 \sigma(\tau_1) \epsilon_{1d})
    + (1 - \sigma(g))\,(x^*_d + 10^{-3 \sigma(l)} \tanh(b + 2 \sigma(\tau_2) \epsilon_{2d})),$$
    clamped into [0, 1] (`InwardClamp`). Before training $\sigma(g)$ is .88, $\sigma(\tau_1)$ is .5 and the rest about
    0, so that proposals spread over the cube.

    Noise is a function of the step's number t alone: the phases $\mathrm{frac}(\phi t + \phi_0)$ with the rates of
    the R-sequence (root of $r^{D+1} = r + 1$, shuffled over coordinates) fill the cube evenly, and
    $\mathrm{frac}(\beta t^2 + \beta_0)$ looks like white noise. So a replay needs no state of a generator.

    Args:
        config: `dimensions` is the largest D.

    >>> core = AxialCore(SamplerConfig(width=8))
    >>> state = core.initial_state(3, 5, torch.Generator().manual_seed(0))
    >>> from factotum.samplers.history import first_observation
    >>> core.step(first_observation(3, 5, 100.0), state)[0].shape
    torch.Size([3, 5])

    Differs from the paper, which has one network per number of dimensions and proposes without noise.
    """

    def __init__(self, config: SamplerConfig) -> None:
        super().__init__()
        self.config = config
        inputs = COORDINATE_INPUTS + config.tags + 1 + SHARED_INPUTS + config.pooled
        self.cells = nn.ModuleList(
            nn.LSTMCell(inputs if i == 0 else config.width + config.pooled, config.width)
            for i in range(config.layers)
        )
        self.pool = nn.ModuleList(
            nn.Linear(config.width, config.pooled, bias=False) for _ in range(config.layers)
        )
        self.output = nn.Linear(config.width, 6)
        self.initialise()

    def initialise(self) -> None:
        """All initialisation: open forget gates; an output that begins as a random search."""
        for cell in self.cells:
            open_forget_gate(cell)
        nn.init.normal_(self.output.weight, std=0.01)
        with torch.no_grad():
            self.output.bias.copy_(torch.tensor([0.0, 0.0, -1.0, 2.0, 0.0, -1.0]))

    def initial_state(self, batch_size: int, dimensions: int, generator: torch.Generator) -> AxialState:
        """Nothing seen yet; tags and noise of every function are drawn from `generator`.

        Raises:
            UserError: more dimensions than the core was made for, or none.
        """
        if not 1 <= dimensions <= self.config.dimensions:
            raise UserError(
                f"dimensions: this axial core was made for 1 to {self.config.dimensions}, got {dimensions}"
            )
        B, D, device = batch_size, dimensions, self.output.weight.device
        drawn = torch.rand(B, D, self.config.tags + 4, generator=generator, device=generator.device)
        drawn = drawn.to(device)
        order_BD, rest_BD3 = drawn[..., 0].argsort(-1), drawn[..., 1:4]
        tags_BDK = torch.cat([drawn[..., 4:] * 2 - 1, torch.full_like(drawn[..., :1], math.log(D))], -1)
        even_BD = r_sequence_rates(D).to(device)[order_BD]
        rates_BD2 = torch.stack([even_BD, rest_BD3[..., 0].double()], -1)
        zeros = self.output.weight.new_zeros(B * D, self.config.width)
        layers = (zeros,) * self.config.layers
        return AxialState(
            initial_history(B, D, device), LSTMState(layers, layers), tags_BDK, rates_BD2,
            rest_BD3[..., 1:].double(), torch.zeros((), dtype=torch.float64, device=device),
        )  # fmt: skip

    def step(self, observation: Observation, state: AxialState) -> tuple[Float[Tensor, "B D"], AxialState]:
        """The next proposal; `state` stays valid."""
        features_BF, history = observe(observation, state.history)
        noise_BD2 = noise(state)
        inputs_BDF = self._inputs(observation, features_BF, noise_BD2, state, history)
        h_BDH, recurrent = self._recur(inputs_BDF, state.recurrent)
        x_BD = self._propose(self.output(h_BDH), noise_BD2, history.best_x_BD)
        return x_BD, state._replace(history=history, recurrent=recurrent, steps=state.steps + 1)

    def _inputs(
        self,
        observation: Observation,
        features_BF: Tensor,
        noise_BD2: Tensor,
        state: AxialState,
        after: History,
    ) -> Tensor:
        x_BD, _, observed_B, remaining_B = observation
        away_BD = x_BD - after.best_x_BD
        # its slope of 130 at 0, taken at every step, would blow up gradients through time
        magnitude_BD = (away_BD.detach() * 1e3).asinh() * 0.13
        own_BD4 = torch.stack([x_BD, after.best_x_BD, away_BD, magnitude_BD], -1)
        left_B1 = remaining_B.unsqueeze(1).clamp(min=1.0)
        share_B1 = left_B1 / (left_B1 + after.count_B1)
        hidden_BDH = state.recurrent.hidden[-1].view(*x_BD.shape, -1)
        pooled_BP = self.pool[-1](hidden_BDH.mean(1))
        shared_BF = torch.cat(
            [features_BF, observed_B.unsqueeze(1), left_B1.log() * 0.2, share_B1, pooled_BP], 1
        )
        shared_BDF = shared_BF.unsqueeze(1).expand(-1, x_BD.shape[1], -1)
        return torch.cat([own_BD4, noise_BD2, state.tags_BDK, shared_BDF], -1)

    def _recur(self, inputs_BDF: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        B, D, _ = inputs_BDF.shape
        below, hidden, cells = inputs_BDF.flatten(0, 1), [], []
        for i, cell in enumerate(self.cells):
            if i > 0:
                below_BDH = below.view(B, D, -1)
                pooled_B1P = self.pool[i - 1](below_BDH.mean(1, keepdim=True))
                below = torch.cat([below_BDH, pooled_B1P.expand(-1, D, -1)], -1).view(B * D, -1)
            below, c = lstm_cell(cell, below, state.hidden[i], state.cell[i])
            hidden.append(below)
            cells.append(c)
        return below.view(B, D, -1), LSTMState(tuple(hidden), tuple(cells))

    def _propose(self, read_BD6: Tensor, noise_BD2: Tensor, best_x_BD: Tensor) -> Tensor:
        means_BD2, bounded_BD4 = read_BD6[..., :2], read_BD6[..., 2:].sigmoid()
        drive_BD2 = torch.addcmul(means_BD2, bounded_BD4[..., 2:], noise_BD2.logit(1e-4), value=2.0)
        absolute_BD, move_BD = drive_BD2.unbind(-1)
        scale_BD, gate_BD, _, _ = bounded_BD4.unbind(-1)
        near_BD = torch.addcmul(best_x_BD, (scale_BD * -math.log(1e3)).exp(), move_BD.tanh())
        x_BD = torch.lerp(near_BD, absolute_BD.sigmoid(), gate_BD)
        return InwardClamp.apply(x_BD) if x_BD.requires_grad else x_BD.clamp(0.0, 1.0)


def noise(state: AxialState) -> Float[Tensor, "B D 2"]:
    """Two noises in [0, 1) for every coordinate: one that fills the cube evenly over steps, one that looks white."""
    powers_2 = torch.stack([state.steps, state.steps * state.steps])
    return torch.addcmul(state.shifts_BD2, state.rates_BD2, powers_2).frac().to(state.tags_BDK.dtype)


def r_sequence_rates(dimensions: int) -> Float[Tensor, " D"]:
    r"""Rates $r^{-1}, \dots, r^{-D}$, $r^{D+1} = r + 1$: the points $t$ times rates, modulo 1, fill a cube evenly.

    >>> r_sequence_rates(1)  # the golden ratio less one
    tensor([0.6180], dtype=torch.float64)

    Reference: Roberts 2018, "The unreasonable effectiveness of quasirandom sequences".
    """
    root = 1.5
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    return root ** -torch.arange(1, dimensions + 1, dtype=torch.float64)

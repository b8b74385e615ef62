"""The paper's cores: an LSTM or a differentiable neural computer, each for one number of dimensions.

What it does not know: functions, losses, search spaces, the core for every number of dimensions.
Local letters: B functions in a batch, D dimensions, F features, H hidden width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.nn.recurrent import DNC, LSTM, DNCState, LSTMState
from factotum.samplers.config import SamplerConfig
from factotum.samplers.history import FEATURES, History, Observation, initial_history, observe


class PlainState(NamedTuple):
    """State of `LSTMCore` and `DNCCore`."""

    history: History
    recurrent: LSTMState | DNCState


class PlainCore(nn.Module):
    r"""The paper's core around a recurrent part: $(h_t, x_t) = \mathrm{RNN}_\theta(h_{t-1}, o, \tilde x, \tilde y)$.

    Args:
        config: `dimensions` is the one D it works in.
        recurrent: has `initial_state(batch_size)` and `step`, from `inputs(config)` to `width` features.

    Differs from the paper: values come as features that ignore their scale (`observe`), the share of the budget
    that is left is an input, and proposals go through a sigmoid into the unit cube. Deterministic: the
    generator of `initial_state` is not used.
    """

    def __init__(self, config: SamplerConfig, recurrent: LSTM | DNC) -> None:
        super().__init__()
        self.config, self.recurrent = config, recurrent
        self.output = nn.Linear(config.width, config.dimensions)

    @staticmethod
    def inputs(config: SamplerConfig) -> int:
        """Features that the recurrent part is fed: x, features of y, o, share of the budget."""
        return config.dimensions + FEATURES + 2

    def initial_state(self, batch_size: int, dimensions: int, generator: torch.Generator) -> PlainState:
        """Nothing seen yet.

        Raises:
            UserError: the core was made for another number of dimensions.
        """
        if dimensions != self.config.dimensions:
            raise UserError(
                f"dimensions: this {self.config.core} core was made for {self.config.dimensions}, got {dimensions}"
            )
        history = initial_history(batch_size, dimensions, self.output.weight.device)
        return PlainState(history, self.recurrent.initial_state(batch_size))

    def step(self, observation: Observation, state: PlainState) -> tuple[Float[Tensor, "B D"], PlainState]:
        """The next proposal; `state` stays valid."""
        features_BF, history = observe(observation, state.history)
        told_B2 = torch.stack([observation.observed_B, observation.remaining_B / self.config.budget], 1)
        inputs_BF = torch.cat([observation.x_BD - 0.5, features_BF, told_B2], 1)
        h_BH, recurrent = self.recurrent.step(inputs_BF, state.recurrent)  # type: ignore[arg-type]
        return self.output(h_BH).sigmoid(), PlainState(history, recurrent)


class LSTMCore(PlainCore):
    """Layers of LSTM cells for one number of dimensions (section 2.2).

    >>> core = LSTMCore(SamplerConfig(core="lstm", dimensions=2, width=8))
    >>> state = core.initial_state(3, 2, torch.Generator())
    >>> from factotum.samplers.history import first_observation
    >>> core.step(first_observation(3, 2, 100.0), state)[0].shape
    torch.Size([3, 2])
    """

    def __init__(self, config: SamplerConfig) -> None:
        super().__init__(config, LSTM(self.inputs(config), config.width, config.layers))


class DNCCore(PlainCore):
    """A differentiable neural computer for one number of dimensions (section 2.2).

    >>> core = DNCCore(SamplerConfig(core="dnc", dimensions=2, width=8, memory_slots=4, memory_width=4))
    >>> state = core.initial_state(3, 2, torch.Generator())
    >>> from factotum.samplers.history import first_observation
    >>> core.step(first_observation(3, 2, 100.0), state)[0].shape
    torch.Size([3, 2])
    """

    def __init__(self, config: SamplerConfig) -> None:
        dnc = DNC(
            self.inputs(config), config.width, config.layers,
            slots=config.memory_slots, slot_width=config.memory_width, heads=config.read_heads,
        )  # fmt: skip
        super().__init__(config, dnc)

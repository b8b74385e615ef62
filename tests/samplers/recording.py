"""A core that proposes what it is given and writes down what it is told."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from factotum.samplers.config import SamplerConfig


class Seen(NamedTuple):
    x: tuple[float, ...]
    y: float | None
    remaining: float
    step: int


class RecordingCore(nn.Module):
    def __init__(self, proposals=None, **sizes):
        super().__init__()
        self.config = SamplerConfig(**{"dimensions": 8, "budget": 60, **sizes})
        self.proposals = proposals
        self.seen: list[Seen] = []

    def initial_state(self, batch_size, dimensions, generator):
        self.draw = torch.rand(500, batch_size, dimensions, generator=generator)
        return 0

    def step(self, observation, state):
        y = observation.y_B.item() if observation.observed_B.item() else None
        x = tuple(round(u, 6) for u in observation.x_BD[0].tolist())
        self.seen.append(Seen(x, y, observation.remaining_B.item(), state))
        proposals = self.draw if self.proposals is None else torch.tensor(self.proposals)[:, None]
        return proposals[state % len(proposals)], state + 1

    @property
    def told(self):
        """What was observed, in order."""
        return [one.y for one in self.seen if one.y is not None]

"""A small core that nobody trained: what holds for any weights is tested with it."""

from __future__ import annotations

import torch

from factotum.samplers.config import SamplerConfig
from factotum.samplers.model import make_core


def untrained_core(**sizes):
    """Reproducible; larger output weights than at the start of training, so that proposals follow what was told."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        core = make_core(SamplerConfig(**{"width": 16, "dimensions": 12, "budget": 60, **sizes}))
        if hasattr(core, "output"):
            torch.nn.init.normal_(core.output.weight, std=0.5)
    return core.eval().requires_grad_(False)

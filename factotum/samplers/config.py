"""How big? Sizes of a sampler's core (arXiv 1611.03824, section 2; memory sizes as in Graves et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from factotum.core.checks import UserError

CoreName = Literal["lstm", "dnc", "axial", "acquisition"]


@dataclass(frozen=True)
class SamplerConfig:
    """Sizes and choices of one core.

    Args:
        core: "lstm" and "dnc" are the paper's, one network for one number of dimensions; "axial" shares one
            network over coordinates and "acquisition" chooses among candidates: both serve every number of
            dimensions up to `dimensions`.
        dimensions: D exactly (lstm, dnc), or the largest D (axial).
        budget: largest number of evaluations in training.
        width: hidden width of each layer (axial: of each coordinate).
        layers: of the LSTM, or of the DNC's controller.
        pooled: numbers by which coordinates tell each other their state (axial).
        tags: random numbers that tell coordinates apart (axial).
        memory_slots: N, rows of the memory (dnc).
        memory_width: W, length of a row (dnc).
        read_heads: R (dnc).
        candidates: points that a step chooses from (acquisition).

    Raises:
        UserError: an unknown core, or a size below 1.

    >>> SamplerConfig(core="lstm", dimensions=2).width
    64
    """

    core: CoreName = "axial"
    dimensions: int = 20
    budget: int = 100
    width: int = 64
    layers: int = 2
    pooled: int = 16
    tags: int = 4
    memory_slots: int = 32
    memory_width: int = 16
    read_heads: int = 2
    candidates: int = 128

    def __post_init__(self) -> None:
        if self.core not in get_args(CoreName):
            raise UserError(f"core: expected one of {', '.join(get_args(CoreName))}, got {self.core!r}")
        for name in SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name}: expected a whole number of at least 1, got {value!r}")

    @property
    def any_dimensions(self) -> bool:
        """Whether one set of weights serves every number of dimensions up to `dimensions`."""
        return self.core in ("axial", "acquisition")

    @property
    def chooses(self) -> bool:
        """Whether the core chooses among candidates, which can be moved to what can be evaluated."""
        return self.core == "acquisition"


SIZES = (
    "dimensions", "budget", "width", "layers", "pooled", "tags", "memory_slots", "memory_width", "read_heads",
    "candidates",
)  # fmt: skip

"""How big? Sizes and choices of one Gather-Attend-Scatter module (arXiv 2401.08525).

What it does not know: components; a component's own choices (window, steered, frozen) are in `Component`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from factotum.core.checks import UserError

Positions = Literal["index", "time", "none"]
Graft = Literal["round", "floor"]
Update = Literal["residual", "gated", "scaled"]


@dataclass(frozen=True)
class GATSConfig:
    """Sizes and choices of one module.

    Args:
        layers: L, GATS layers; each is grafted at the same relative depth of every component.
        width: C, the common width into which all modalities are projected.
        heads: H; each has C / H features.
        feed_forward: width of the feed-forward part before its gate halves it, in common widths; 0 for none.
        positions: what attention knows of where elements are: "index" rotates by the place in the interleaved
            sequence, "time" by the arrival time, "none" not at all.
        rotary: share of each head's features that is turned; the rest sees content alone, so that what arrived
            long ago, such as an instruction, is found at any distance.
        time_scale: radians of the fastest rotation for one unit of time (positions "time").
        base: of the rotary frequencies.
        graft: how l K / L becomes a whole number of blocks; never below 1.
        update: how the result enters the residual stream: "residual" adds it through a projection that starts
            at zero, "gated" through tanh of a number that starts at zero (as in Flamingo), "scaled" like
            "residual", times the size of the activation that it changes.

    Raises:
        UserError: a size that is not positive, an unknown choice, a width that the heads do not divide.

    >>> GATSConfig(layers=2, width=64).head_size
    16

    Differs from the paper: of which the choices between these are not known (docs/gats.md).
    """

    layers: int = 6
    width: int = 256
    heads: int = 4
    feed_forward: float = 4.0
    positions: Positions = "index"
    rotary: float = 0.5
    time_scale: float = 1.0
    base: float = 10_000.0
    graft: Graft = "round"
    update: Update = "residual"

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name}: expected a whole number of at least 1, got {value!r}")
        for name, known in (("positions", Positions), ("graft", Graft), ("update", Update)):
            if getattr(self, name) not in get_args(known):
                raise UserError(
                    f"{name}: expected one of {', '.join(get_args(known))}, got {getattr(self, name)!r}"
                )
        if self.width % (2 * self.heads):
            raise UserError(
                f"width: expected a multiple of twice the {self.heads} heads (a head's size is even), got {self.width}"
            )
        limits = {"feed_forward": (0, 1e3), "rotary": (0, 1), "time_scale": (0, 1e12), "base": (1, 1e12)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not (isinstance(value, int | float) and least <= value <= most):
                raise UserError(f"{name}: expected a number from {least} to {most:g}, got {value!r}")

    @property
    def head_size(self) -> int:
        """K, features of a head."""
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Width of the feed-forward part before its gate halves it; 0 for none."""
        return 2 * round(self.feed_forward * self.width / 2)

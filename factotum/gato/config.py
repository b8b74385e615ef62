"""How big? Sizes of Gato and the layout of its vocabulary (arXiv 2205.06175, sections 2.1-2.3, table 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from factotum.core.checks import UserError


@dataclass(frozen=True)
class Vocabulary:
    """Ranges of ids: text [0, text_size), discrete [0, bins) (shared with text), continuous from text_size on.

    >>> Vocabulary().size, Vocabulary().continuous_start
    (33024, 32000)
    """

    text_size: int = 32_000
    bins: int = 1024
    mu: float = 100.0
    maximum: float = 256.0

    def __post_init__(self) -> None:
        if self.text_size < self.bins:
            raise UserError(
                f"text_size: expected at least bins = {self.bins} (discrete ids share the text range), "
                f"got {self.text_size}"
            )

    @property
    def continuous_start(self) -> int:
        """First id of the continuous range."""
        return self.text_size

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.text_size + self.bins


@dataclass(frozen=True)
class GatoConfig:
    """Sizes and choices of one Gato.

    Args:
        feed_forward: width before the GEGLU gate halves it, as the paper lists it.
        context: positions that attention sees; a training sequence has this length.
        tokens: "scalar" is the paper's one position per token; "fused" has one position per modality and timestep.
        positions: "relative" is Transformer-XL's form; "rotary" runs on the fast attention path.
        observation_slots: most tokens of one modality in a timestep (the paper's 512 local positions).
        action_slots: most action tokens in a timestep.
        patch_channels: channels of the ResNet block that embeds an image patch.
        code: features per token before a modality is fused.
    """

    layers: int = 8
    width: int = 768
    heads: int = 24
    head_size: int = 32
    feed_forward: int = 3072
    context: int = 1024
    tokens: Literal["scalar", "fused"] = "scalar"
    positions: Literal["rotary", "relative"] = "rotary"
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    observation_slots: int = 512
    action_slots: int = 64
    patch: int = 16
    patch_channels: int = 64
    patch_slots: int = 64
    patch_positions: int = 128
    code: int = 16
    stochastic_depth: float = 0.1

    def __post_init__(self) -> None:
        if self.tokens not in ("scalar", "fused"):
            raise UserError(f"tokens: expected scalar or fused, got {self.tokens!r}")
        if self.positions not in ("rotary", "relative"):
            raise UserError(f"positions: expected rotary or relative, got {self.positions!r}")
        if self.positions == "relative" and self.heads * self.head_size != self.width:
            raise UserError(
                f"relative positions: expected heads x head_size = width, got "
                f"{self.heads} x {self.head_size} != {self.width}"
            )
        for name in ("layers", "width", "heads", "head_size", "feed_forward", "context", "code"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.head_size % 2 or self.feed_forward % 2:
            raise UserError(
                f"head_size and feed_forward: expected even numbers, got {self.head_size}, {self.feed_forward}"
            )


def gato_79m(**changes: object) -> GatoConfig:
    """The 79 M model of the paper, with its relative positions."""
    return GatoConfig(**{"positions": "relative", **changes})  # type: ignore[arg-type]


def gato_364m(**changes: object) -> GatoConfig:
    """The 364 M model of the paper."""
    sizes = {"layers": 12, "width": 1536, "heads": 12, "head_size": 128, "feed_forward": 6144}
    return GatoConfig(**{"positions": "relative", **sizes, **changes})  # type: ignore[arg-type]


def gato_1b(**changes: object) -> GatoConfig:
    """The 1.18 B model of the paper; its feed-forward is 8192 (the printed 8196 is a slip)."""
    sizes = {"layers": 24, "width": 2048, "heads": 16, "head_size": 128, "feed_forward": 8192}
    return GatoConfig(**{"positions": "relative", **sizes, **changes})  # type: ignore[arg-type]


def gato_small(**changes: object) -> GatoConfig:
    """A few million parameters for a laptop: fused tokens, rotary positions, a small text vocabulary.

    >>> gato_small(context=128).context
    128
    """
    sizes: dict[str, object] = {
        "layers": 4, "width": 256, "heads": 4, "head_size": 64, "feed_forward": 1024, "context": 256,
        "tokens": "fused", "vocabulary": Vocabulary(text_size=1024), "patch_channels": 32, "stochastic_depth": 0.0,
    }  # fmt: skip
    return GatoConfig(**{**sizes, **changes})  # type: ignore[arg-type]


PRESETS = {"small": gato_small, "79m": gato_79m, "364m": gato_364m, "1b": gato_1b}

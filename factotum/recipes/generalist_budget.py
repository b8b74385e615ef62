"""How big the generalist is, how long it is trained, and what that costs: parameters, FLOP, bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Literal

import torch
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.gato.config import GatoConfig
from factotum.gato.embedding import PatchEmbedding
from factotum.gato.model import Gato
from factotum.recipes.train import Size
from factotum.worlds.suites.task import Task

MOST_PARAMETERS = 25_000_000
MOST_FLOP = 1e18
MOST_BYTES = 40_000_000
"""Of the weights that are shipped, in half precision."""

SizeName = Literal["1m", "5m", "20m", "25m"]


@dataclass(frozen=True)
class Setting:
    """A size with the training that suits it.

    Args:
        size: of the model.
        rows: sequences in an update.
        steps: updates on demonstrations.
        round_steps: updates of each further round.
        learning_rate: the highest; further rounds take a part of it.
    """

    size: Size
    rows: int
    steps: int
    round_steps: int
    learning_rate: float


def _size(**sizes: int) -> Size:
    """Tables as long as the tasks need: 148 symbols of a grid, 25 patches of a screen."""
    common = {"observation_slots": 160, "patch_slots": 32, "text_size": 1024, "bins": 256, "head_size": 64}
    return Size(**{**common, **sizes})  # type: ignore[arg-type]


SETTINGS: dict[str, Setting] = {
    "1m": Setting(
        _size(
            context=128, layers=2, width=128, heads=2, feed_forward=512, text_size=512, code=8, patch_channels=8
        ),
        rows=8, steps=120_000, round_steps=30_000, learning_rate=1e-3,
    ),
    "5m": Setting(
        _size(context=256, layers=4, width=256, heads=4, feed_forward=1024, patch_channels=16),
        rows=8, steps=40_000, round_steps=12_000, learning_rate=1e-3,
    ),
    "20m": Setting(
        _size(context=512, layers=7, width=448, heads=7, feed_forward=1664, patch_channels=32),
        rows=64, steps=60_000, round_steps=15_000, learning_rate=6e-4,
    ),
    "25m": Setting(
        _size(context=512, layers=8, width=512, heads=8, feed_forward=1408, patch_channels=32),
        rows=64, steps=60_000, round_steps=15_000, learning_rate=6e-4,
    ),
}  # fmt: skip
"""5m is what two CPU cores train in a day; 20m is the largest whose file may be shipped, for a GPU; 1m and 25m are the
ends of the scaling curve."""


@dataclass(frozen=True)
class Budget:
    """What a training costs, all of its rounds.

    Args:
        parameters: of the model, tables included.
        positions: trained on.
        flop: of training.
    """

    parameters: int
    positions: int
    flop: float

    @property
    def bytes(self) -> int:
        """Of the weights in half precision."""
        return 2 * self.parameters

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f} M parameters ({self.bytes / 1e6:.1f} MB in half precision), "
            f"{self.positions / 1e6:,.0f} M positions, {self.flop:.2e} FLOP of training"
        )

    def check(self, ship: bool) -> None:
        """Refuse what the generalist may not be.

        Raises:
            UserError: too many parameters or FLOP, or a file too large to be shipped.

        >>> Budget(30_000_000, 1, 1.0).check(ship=False)
        Traceback (most recent call last):
        factotum.core.checks.UserError: size: expected at most 25 M parameters, got 30.0 M
        """
        if self.parameters > MOST_PARAMETERS:
            most = f"{MOST_PARAMETERS / 1e6:.0f} M parameters"
            raise UserError(f"size: expected at most {most}, got {self.parameters / 1e6:.1f} M")
        if self.flop > MOST_FLOP:
            raise UserError(f"training: expected at most {MOST_FLOP:.0e} FLOP, got {self.flop:.2e}")
        if ship and self.bytes > MOST_BYTES:
            most = f"at most {MOST_BYTES / 1e6:.0f} MB in half precision"
            raise UserError(
                f"size: expected {most} to ship, got {self.bytes / 1e6:.1f} MB; leave the stage ship out"
            )


def budget(config: GatoConfig, positions: int, tasks: Sequence[tuple[Task, float]]) -> Budget:
    r"""Parameters, and FLOP from above: every parameter counts at every position, tables too.

    $$D (6 N + 12 L T H K) + 6\,P\,c$$
    with D positions, N parameters, L layers, T positions seen, H heads of size K; P patches, c products of one.

    Args:
        config: of the model.
        positions: trained on (D).
        tasks: what is trained on, each with its weight in the mixture.

    Hoffmann et al., 2022 (arXiv 2203.15556), section 2; Chowdhery et al., 2022 (arXiv 2204.02311), appendix B.
    """
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Gato(config).parameters())
    attention = 12 * config.layers * config.context * config.heads * config.head_size
    patches = positions * _patches_per_position(config, tasks)
    flop = positions * (6.0 * parameters + attention) + 6.0 * patches * patch_products(config)
    return Budget(parameters, positions, flop)


def patch_products(config: GatoConfig) -> float:
    """Products that embedding one patch takes (`embedding.PatchEmbedding`): a stem, three convolutions, a map."""
    channels, half, quarter = config.patch_channels, (config.patch // 2) ** 2, (config.patch // 4) ** 2
    stem = half * 9 * PatchEmbedding.CHANNELS * channels
    block = quarter * (9 + 9 + 1) * channels**2
    return stem + block + quarter * channels * 2 * config.code


def _patches_per_position(config: GatoConfig, tasks: Sequence[tuple[Task, float]]) -> float:
    """Rows are drawn by weight and all have as many positions; a timestep with a picture has at least three."""
    patches = sum(weight * _patches(task.observation_space, config.patch) for task, weight in tasks)
    return patches / (3 * sum(weight for _, weight in tasks))


def _patches(space: Any, side: int) -> int:
    leaves: Iterable[Any] = space.values() if isinstance(space, spaces.Dict) else [space]
    shapes = [leaf.shape for leaf in leaves if isinstance(leaf, spaces.Box) and len(leaf.shape or ()) == 3]
    return sum(prod(ceil(length / side) for length in shape[:2]) for shape in shapes)

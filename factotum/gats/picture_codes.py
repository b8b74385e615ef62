"""Pictures as ids and back: a small convolutional autoencoder whose middle takes a few values in each direction.

What it does not know: what pictures show, what is done with the ids. Letters: R pictures, C channels, H height and
width, K numbers of a code, P codes of a picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.core.config import from_json_dict, to_json_dict
from factotum.core.files import write_json_atomic
from factotum.core.weights import read_sizes
from factotum.gats.parts import load_weights, save_weights

SYSTEM, FORMAT_VERSION = "gats-codes", 1


@dataclass(frozen=True)
class CodesConfig:
    """Sizes of the autoencoder.

    Args:
        width: channels inside.
        levels: how many values each number of a code takes; their product is the vocabulary.
        halvings: how often height and width are halved.
        image: height and width of a picture.

    Raises:
        UserError: sizes below 1, fewer than two levels, a picture that cannot be halved so often.
    """

    width: int = 64
    levels: tuple[int, ...] = (8, 6, 5)
    halvings: int = 3
    image: int = 64

    def __post_init__(self) -> None:
        if min(self.width, self.halvings, self.image) < 1 or not self.levels or min(self.levels) < 2:
            raise UserError(f"codes: expected sizes of at least 1 and levels of at least 2, got {self}")
        if self.image % 2**self.halvings:
            raise UserError(f"image: expected a multiple of {2**self.halvings}, got {self.image}")

    @property
    def vocabulary(self) -> int:
        """V, how many codes there are."""
        return math.prod(self.levels)

    @property
    def codes(self) -> int:
        """P, codes of a picture."""
        return (self.image >> self.halvings) ** 2


class PictureCodes(nn.Module):
    r"""Ids of a picture's places, and a picture from ids.

    $z = \mathrm{round}(\tfrac{L-1}{2} \tanh h)$ in each of K numbers, with the gradient of the identity through the
    rounding.

    >>> codes = PictureCodes(CodesConfig(width=8, image=16))
    >>> ids = codes.encode(torch.zeros(2, 3, 16, 16))
    >>> ids.shape, codes.decode(ids).shape
    (torch.Size([2, 4]), torch.Size([2, 3, 16, 16]))

    Source: finite scalar quantisation (arXiv 2309.15505).
    """

    def __init__(self, config: CodesConfig) -> None:
        super().__init__()
        self.config, W, K = config, config.width, len(config.levels)
        down: list[nn.Module] = []
        up: list[nn.Module] = [nn.Conv2d(K, W, 3, padding=1), _Residual(W)]
        for place in range(config.halvings):
            down += [nn.Conv2d(W if place else 3, W, 4, stride=2, padding=1), _Residual(W)]
            last = place == config.halvings - 1
            up += [nn.ConvTranspose2d(W, 3 if last else W, 4, stride=2, padding=1)]
            up += [] if last else [_Residual(W)]
        self.encoder = nn.Sequential(*down, nn.Conv2d(W, K, 1))
        self.decoder = nn.Sequential(*up)
        self.levels_K11: Tensor
        self.register_buffer("levels_K11", torch.tensor(config.levels)[:, None, None], persistent=False)

    def forward(self, pixels_RCHH: Float[Tensor, "R 3 H H"]) -> Float[Tensor, "R 3 H H"]:
        """Pictures as they come out of their codes; gradients pass."""
        return self.decoder(self._centred(self._levels(pixels_RCHH)))

    @torch.no_grad()
    def encode(self, pixels_RCHH: Float[Tensor, "R 3 H H"]) -> Int[Tensor, "R P"]:
        """Ids, row by row."""
        places_RKHH = self._levels(pixels_RCHH).round().long()
        ids = places_RKHH[:, 0]
        for number, level in enumerate(self.config.levels[1:], 1):
            ids = ids * level + places_RKHH[:, number]
        return ids.flatten(1)

    @torch.no_grad()
    def decode(self, ids_RP: Int[Tensor, "R P"]) -> Float[Tensor, "R 3 H H"]:
        """Pictures of ids, numbers from about -1 to 1."""
        side, rest, parts = self.config.image >> self.config.halvings, ids_RP, []
        for level in reversed(self.config.levels):
            parts.append(rest % level)
            rest = rest // level
        places_RKHH = torch.stack(parts[::-1], 1).float().unflatten(2, (side, side))
        return self.decoder(self._centred(places_RKHH))

    def _levels(self, pixels: Tensor) -> Tensor:
        """Each number of each code, from 0 to its levels - 1."""
        most = self.levels_K11 - 1
        exact = (self.encoder(pixels).tanh() + 1) / 2 * most
        return exact + (exact.round() - exact).detach()

    def _centred(self, places: Tensor) -> Tensor:
        return places / (self.levels_K11 - 1) * 2 - 1

    def save_folder(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors."""
        save_weights(self, folder)
        stored = {"format_version": FORMAT_VERSION, "system": SYSTEM, "config": to_json_dict(self.config)}
        write_json_atomic(Path(folder) / "config.json", stored)

    @classmethod
    def load_folder(cls, folder: Path | str) -> PictureCodes:
        """Read what `save_folder` wrote.

        Raises:
            UserError: no such folder, or another system's.
        """
        config = from_json_dict(CodesConfig, read_sizes(Path(folder), SYSTEM, FORMAT_VERSION))
        with torch.random.fork_rng(devices=[]):
            made = cls(config)
        load_weights(made, folder)
        return made.eval()


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(nn.functional.silu(self.first(nn.functional.silu(self.norm(x)))))

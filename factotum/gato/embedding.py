"""Blocks of values to one vector a position: the paper's tokens, or fused modalities.

Letters: B rows, T positions, D width, M patches or steps, n elements, C code features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.gato.batch import Block
from factotum.gato.config import GatoConfig


class PatchEmbedding(nn.Module):
    r"""One ResNet-v2 block with GroupNorm and GELU turns an image patch into a vector (appendix C.2).

    Pixels to [-1, 1], divided by $\sqrt{16}$; a strided stem, one pre-activation block of stride 2, and a linear
    map. Patches get learned row and column positions of their interval (appendix C.3), uniform inside it in
    training, its rounded mean in evaluation.

    Differs from the paper: stem, strides and channels are not in its text; these keep the published sizes.
    """

    CHANNELS = 4

    def __init__(self, patch: int, channels: int, positions: int, width: int) -> None:
        super().__init__()
        self.patch, self.positions = patch, positions
        groups = math.gcd(32, channels)
        self.stem = nn.Conv2d(self.CHANNELS, channels, 3, stride=2, padding=1)
        self.first_norm = nn.GroupNorm(groups, channels)
        self.first = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.second_norm = nn.GroupNorm(groups, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, channels, 1, stride=2)
        self.output = nn.Linear(channels * (patch // 4) ** 2, width)
        self.rows = nn.Embedding(positions, width)
        self.columns = nn.Embedding(positions, width)

    def forward(self, images: UInt8[Tensor, "N height width channels"]) -> Float[Tensor, "N M D"]:
        """Vectors of all patches in raster order; images are padded by zeros to whole patches."""
        patches, rows, columns = self._cut(images)
        N, M = patches.shape[:2]
        pixels = (patches.flatten(0, 1).float() / 127.5 - 1.0) / math.sqrt(self.patch)
        x = self.stem(pixels.to(self.stem.weight.dtype))
        # the shortcut takes what no norm has touched: a norm over a patch takes its plain colour away
        x = self.shortcut(x) + self.second(F.gelu(self.second_norm(self.first(F.gelu(self.first_norm(x))))))
        vectors = self.output(x.flatten(1)).view(N, M, -1)
        return vectors + self._position(self.rows, rows, N) + self._position(self.columns, columns, N)

    def _cut(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        N, height, width, channels = images.shape
        down, right = -(-height // self.patch), -(-width // self.patch)
        padding = (0, self.CHANNELS - channels, 0, right * self.patch - width, 0, down * self.patch - height)
        padded = F.pad(images, padding).view(N, down, self.patch, right, self.patch, self.CHANNELS)
        patches = padded.permute(0, 1, 3, 5, 2, 4).reshape(
            N, down * right, self.CHANNELS, self.patch, self.patch
        )
        raster = torch.arange(down * right, device=images.device)
        return patches, self._interval(raster // right, down), self._interval(raster % right, right)

    def _interval(self, index: Tensor, count: int) -> Tensor:
        """First and last quantised position of each patch, `M 2`; the right border never reaches `positions`."""
        first = index * self.positions // count
        last = torch.maximum(first, (index + 1) * self.positions // count - 1)
        return torch.stack([first, last.clamp(max=self.positions - 1)], -1)

    def _position(self, table: nn.Embedding, interval_M2: Tensor, count: int) -> Tensor:
        first, last = interval_M2[:, 0], interval_M2[:, 1]
        if not self.training:
            return table((first + last + 1) // 2)
        share = torch.rand(count, len(first), device=first.device)
        return table(first + (share * (last - first + 1)).long())


class ScalarEmbedding(nn.Module):
    """The paper's embedding: one position a token, by lookup, with local observation positions (section 2.2).

    All action tokens share one position vector (index 0), as one reading of the paper has it; the separator is one
    learned vector without a position.
    """

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.config = config
        self.local = nn.Embedding(config.observation_slots + 1, config.width)
        self.separator = nn.Parameter(torch.zeros(config.width))
        self.patches = PatchEmbedding(
            config.patch, config.patch_channels, config.patch_positions, config.width
        )

    def forward(self, blocks: list[Block], rows: int, length: int, table: nn.Embedding) -> Tensor:
        """`rows length D` vectors; zero where nothing is."""
        return _scatter([(block, self._vectors(block, table)) for block in blocks], rows, length)

    def _vectors(self, block: Block, table: nn.Embedding) -> Tensor:
        if block.kind == "separator":
            return self.separator.expand(block.where.numel(), -1)
        assert block.local is not None
        if int(block.local.max()) >= self.config.observation_slots:
            raise UserError(
                f"observation: expected at most {self.config.observation_slots} tokens a timestep "
                f"(observation_slots), got {int(block.local.max()) + 1}"
            )
        position = self.local(block.local + 1)
        return position + (table(block.values) if block.kind == "token" else self.patches(block.values))


def _scatter(placed: list[tuple[Block, Tensor]], rows: int, length: int) -> Float[Tensor, "B T D"]:
    """Put each block's vectors where they belong; zero where nothing is."""
    vectors = [vectors.flatten(0, -2) for _, vectors in placed]
    x_ND = vectors[0].new_zeros(rows * length, vectors[0].shape[-1], dtype=torch.float32)
    where = torch.cat([block.where.reshape(-1) for block, _ in placed])
    return x_ND.index_copy(0, where, torch.cat(vectors).to(x_ND.dtype)).view(rows, length, -1)


class Slots(nn.Module):
    """n codes of C features to one vector: each slot has its own linear map, then one hidden layer.

    Fewer elements than slots use the first maps, so that one table serves all bodies.
    """

    def __init__(self, slots: int, code: int, width: int) -> None:
        super().__init__()
        self.slots, self.code = slots, code
        self.maps = nn.Parameter(torch.empty(slots * code, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, codes_MnC: Float[Tensor, "M n C"]) -> Float[Tensor, "M D"]:
        """One vector a timestep."""
        if codes_MnC.shape[1] > self.slots:
            raise UserError(
                f"expected at most {self.slots} elements of one modality, got {codes_MnC.shape[1]}"
            )
        flat = codes_MnC.flatten(1)
        x = self.norm(flat @ self.maps[: flat.shape[1]] + self.bias)
        return x + self.output(F.gelu(self.hidden(x)))


class FusedEmbedding(nn.Module):
    """One position a modality and timestep: element codes, joined by `Slots`.

    Differs from the paper, which has one position a token; vectors are read as numbers (standardised by the body's
    statistics, and companded), not as bins.
    """

    FREQUENCIES = (1.0, 2.0, 4.0, 8.0)

    def __init__(self, config: GatoConfig) -> None:
        super().__init__()
        self.config = config
        D, C = config.width, config.code
        self.codes = nn.Embedding(config.vocabulary.size + 1, C)
        self.patches = PatchEmbedding(config.patch, config.patch_channels, config.patch_positions, 2 * C)
        numbers = 2 + 2 * len(self.FREQUENCIES)
        self.text = Slots(config.action_slots, C, D)
        self.discrete = Slots(config.observation_slots, C, D)
        self.continuous = Slots(config.observation_slots, numbers, D)
        self.image = Slots(config.patch_slots, 2 * C, D)
        self.action = Slots(config.action_slots, C, D)
        self.token_position = nn.Parameter(torch.zeros(D))

    def forward(self, blocks: list[Block], rows: int, length: int, table: nn.Embedding) -> Tensor:
        """`rows length D` vectors; zero where nothing is."""
        return _scatter([(block, self._vectors(block, table)) for block in blocks], rows, length)

    def _vectors(self, block: Block, table: nn.Embedding) -> Tensor:
        if block.kind == "token":
            return table(block.values) + self.token_position
        if block.kind == "image":
            return self.image(F.gelu(self.patches(block.values)))
        if block.kind == "continuous":
            return self.continuous(self._numbers(block.values))
        slots: Slots = {"text": self.text, "discrete": self.discrete, "action": self.action}[block.kind]  # type: ignore[assignment]
        return slots(self.codes(block.values + 1) * (block.values >= 0)[..., None])

    def _numbers(self, values_Mn2: Tensor) -> Tensor:
        there = ~values_Mn2.isnan()
        values = values_Mn2.nan_to_num(0.0)
        standardised = values[..., :1].clamp(-10.0, 10.0)
        angles = standardised * torch.tensor(self.FREQUENCIES, device=values.device)
        return torch.cat([standardised, values[..., 1:], angles.sin(), angles.cos()], -1) * there[..., :1]


EMBEDDINGS = {"scalar": ScalarEmbedding, "fused": FusedEmbedding}

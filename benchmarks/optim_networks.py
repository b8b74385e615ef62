"""Networks that no meta-training saw, as `factotum bench` takes them: `build()` -> (model, batches, loss).

Small, so that a grid of runs is a matter of hours on a CPU. Milliseconds are Adam's step, one thread.

| task | network | tensors | parameters | batch | ms |
|---|---|---|---|---|---|
| mlp-digits | 64-48-32-10, ReLU | 6 | 5,018 | 64 | 0.7 |
| mlp-pictures | 3072-32-32-10, ReLU | 6 | 99,722 | 64 | 1.3 |
| conv-digits | convolutions of 8, 16, 16 | 8 | 4,218 | 64 | 2.3 |
| conv-pictures | convolutions of 12, 16, 24 | 8 | 6,530 | 32 | 3.4 |
| resnet-pictures | ResNet V2, 20 layers, widths 8, 16, 32 | 61 | 68,690 | 16 | 15 |
| inception-pictures | Inception V3's blocks A, B, C, 24 convolutions | 74 | 25,210 | 16 | 16 |
| vit-pictures | 16 patches of 8x8, width 32, 3 layers | 43 | 45,194 | 32 | 11 |
| gpt-text | 64 characters, width 48, 2 layers | 30 | 69,703 | 8 | 10 |
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from optim_data import SHAPES, digits, minibatches, pictures, text, windows
from torch import Tensor, nn
from torch.nn import functional

Built = tuple[nn.Module, Any, Callable[[nn.Module, Any], Tensor]]


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Of a classifier."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def mlp_digits() -> Built:
    """A multilayer perceptron on digits."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    return model, minibatches(*digits(), 64), cross_entropy


def mlp_pictures() -> Built:
    """A multilayer perceptron on pictures."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    return model, minibatches(*pictures(), 64), cross_entropy


def _plain(channels: int, widths: tuple[int, ...], strides: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = []
    for width, stride in zip(widths, strides, strict=True):
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10))


def conv_digits() -> Built:
    """A convolutional network on digits."""
    return _plain(1, (8, 16, 16), (1, 2, 1)), minibatches(*digits(), 64), cross_entropy


def conv_pictures() -> Built:
    """A convolutional network on pictures."""
    return _plain(3, (12, 16, 24), (2, 2, 2)), minibatches(*pictures(), 32), cross_entropy


class PreActivated(nn.Module):
    """A block of ResNet V2: normalise, activate, convolve, twice (He et al., 2016, arXiv 1603.05027)."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.one = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.two = nn.Conv2d(after, after, 3, padding=1, bias=False)
        same = before == after and stride == 1
        self.shortcut = None if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W)."""
        active = self.first(x).relu()
        shortcut = x if self.shortcut is None else self.shortcut(active)
        return shortcut + self.two(self.second(self.one(active)).relu())


def resnet_pictures() -> Built:
    """ResNet V2 of 20 layers (3 stages of 3 blocks, a stem and an output layer) on pictures."""
    widths = (8, 8, 8, 8, 16, 16, 16, 32, 32, 32)
    blocks = [PreActivated(a, b, 2 if a != b else 1) for a, b in pairwise(widths)]
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, padding=1, bias=False),
        *blocks,
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    return model, minibatches(*pictures(), 16), cross_entropy


class Unit(nn.Sequential):
    """Convolution, batch normalisation, ReLU: Inception's unit."""

    def __init__(self, before: int, after: int, size: int | tuple[int, int], stride: int = 1):
        sizes = (size, size) if isinstance(size, int) else size
        padding = tuple(side // 2 for side in sizes)
        super().__init__(
            nn.Conv2d(before, after, sizes, stride, padding, bias=False), nn.BatchNorm2d(after), nn.ReLU()
        )


class Branches(nn.Module):
    """Branches side by side, their channels concatenated."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W)."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def inception_pictures() -> Built:
    """A small Inception V3 on pictures: blocks A, B (factorised 1x5, 5x1) and C (split 1x3, 3x1), two reductions."""
    pool = nn.AvgPool2d(3, 1, padding=1)
    block_a = Branches(
        Unit(16, 8, 1),
        nn.Sequential(Unit(16, 6, 1), Unit(6, 8, 5)),
        nn.Sequential(Unit(16, 6, 1), Unit(6, 8, 3), Unit(8, 8, 3)),
        nn.Sequential(pool, Unit(16, 8, 1)),
    )
    to_b = Branches(
        Unit(32, 16, 3, 2),
        nn.Sequential(Unit(32, 8, 1), Unit(8, 16, 3, 2)),
        nn.MaxPool2d(3, 2, padding=1),
    )
    block_b = Branches(
        Unit(64, 16, 1),
        nn.Sequential(Unit(64, 12, 1), Unit(12, 12, (1, 5)), Unit(12, 16, (5, 1))),
        nn.Sequential(pool, Unit(64, 16, 1)),
    )
    to_c = Branches(nn.Sequential(Unit(48, 16, 1), Unit(16, 24, 3, 2)), nn.MaxPool2d(3, 2, padding=1))
    block_c = Branches(
        Unit(72, 24, 1),
        nn.Sequential(Unit(72, 16, 1), Branches(Unit(16, 12, (1, 3)), Unit(16, 12, (3, 1)))),
        nn.Sequential(pool, Unit(72, 16, 1)),
    )
    model = nn.Sequential(
        Unit(3, 8, 3, 2), Unit(8, 16, 3), nn.MaxPool2d(3, 2, padding=1),
        block_a, to_b, block_b, to_c, block_c,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    return model, minibatches(*pictures(), 16), cross_entropy


class Transformer(nn.Module):
    """Tokens, learned positions, pre-normalised blocks; the mean (a classifier) or every token (causal) is read."""

    def __init__(self, embed: nn.Module, length: int, width: int, layers: int, outputs: int, causal: bool):
        super().__init__()
        self.embed, self.causal = embed, causal
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x: what `embed` turns into (B, T, D)."""
        tokens = self.embed(x) + self.positions
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1]) if self.causal else None
        for block in self.blocks:
            tokens = block(tokens, src_mask=mask, is_causal=self.causal)
        return self.head(self.norm(tokens if self.causal else tokens.mean(dim=1)))


class Patches(nn.Conv2d):
    """Patches of a picture as tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 32, 32) to (B, T, D)."""
        return super().forward(x).flatten(2).transpose(1, 2)


def vit_pictures() -> Built:
    """A vision transformer on pictures: 16 patches of 8x8, width 32, 3 layers, 4 heads."""
    model = Transformer(Patches(3, 32, 8, 8), 16, 32, 3, len(SHAPES), causal=False)
    return model, minibatches(*pictures(), 32), cross_entropy


def gpt_text() -> Built:
    """A character GPT on text: 64 characters of context, width 48, 2 layers, 4 heads."""
    characters, kinds = text()
    model = Transformer(nn.Embedding(kinds, 48), 64, 48, 2, kinds, causal=True)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    return model, windows(characters, 8, 64), loss


TASKS: dict[str, Callable[[], Built]] = {
    "mlp-digits": mlp_digits,
    "mlp-pictures": mlp_pictures,
    "conv-digits": conv_digits,
    "conv-pictures": conv_pictures,
    "resnet-pictures": resnet_pictures,
    "inception-pictures": inception_pictures,
    "vit-pictures": vit_pictures,
    "gpt-text": gpt_text,
}

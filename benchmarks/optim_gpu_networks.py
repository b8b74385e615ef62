"""Inception V3 and ResNet V2 50 at full size, and batches of ImageNet's shape that are drawn on the device.

Nothing is fetched. A picture is its class's pattern, large and smooth, under noise: 1,000 classes can be told apart,
and no picture is seen twice. `width` makes the networks smaller, for a machine without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from optim_networks import Branches
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 1000


def unit(
    before: int, after: int, size: int | tuple[int, int], stride: int = 1, same: bool = True
) -> nn.Module:
    """Inception's unit: convolution, batch normalisation, ReLU."""
    sizes = (size, size) if isinstance(size, int) else size
    padding = (sizes[0] // 2, sizes[1] // 2) if same else (0, 0)
    convolution = nn.Conv2d(before, after, sizes, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after, eps=1e-3), nn.ReLU(inplace=True))


class Inception:
    """Blocks of Inception V3 (Szegedy et al., 2016, arXiv 1512.00567), without its second classifier."""

    def __init__(self, width: float) -> None:
        self.width = width

    def __call__(self, channels: int) -> int:
        """Channels at this width."""
        return max(2, round(channels * self.width))

    def chain(self, before: int, *layers: tuple[int, int | tuple[int, int]]) -> nn.Sequential:
        """Units behind each other: (channels, size of the kernel)."""
        sizes = [before, *(self(channels) for channels, _ in layers)]
        return nn.Sequential(*(unit(sizes[i], sizes[i + 1], size) for i, (_, size) in enumerate(layers)))

    def pooled(self, before: int, channels: int) -> nn.Sequential:
        """Average, then 1x1."""
        return nn.Sequential(nn.AvgPool2d(3, 1, padding=1), unit(before, self(channels), 1))

    def a(self, before: int, pool: int) -> tuple[nn.Module, int]:
        """5x5 and 3x3; and how many channels come out."""
        module = Branches(
            self.chain(before, (64, 1)),
            self.chain(before, (48, 1), (64, 5)),
            self.chain(before, (64, 1), (96, 3), (96, 3)),
            self.pooled(before, pool),
        )
        return module, 2 * self(64) + self(96) + self(pool)

    def to_17(self, before: int) -> tuple[nn.Module, int]:
        """From 35x35 to 17x17."""
        last = unit(self(96), self(96), 3, 2, same=False)
        module = Branches(
            unit(before, self(384), 3, 2, same=False),
            nn.Sequential(*self.chain(before, (64, 1), (96, 3)), last),
            nn.MaxPool2d(3, 2),
        )
        return module, self(384) + self(96) + before

    def b(self, before: int, inner: int) -> tuple[nn.Module, int]:
        """7x7 as 1x7 and 7x1."""
        wide, high = (1, 7), (7, 1)
        module = Branches(
            self.chain(before, (192, 1)),
            self.chain(before, (inner, 1), (inner, wide), (192, high)),
            self.chain(before, (inner, 1), (inner, high), (inner, wide), (inner, high), (192, wide)),
            self.pooled(before, 192),
        )
        return module, 4 * self(192)

    def to_8(self, before: int) -> tuple[nn.Module, int]:
        """From 17x17 to 8x8."""
        module = Branches(
            nn.Sequential(*self.chain(before, (192, 1)), unit(self(192), self(320), 3, 2, same=False)),
            nn.Sequential(
                *self.chain(before, (192, 1), (192, (1, 7)), (192, (7, 1))),
                unit(self(192), self(192), 3, 2, same=False),
            ),
            nn.MaxPool2d(3, 2),
        )
        return module, self(320) + self(192) + before

    def c(self, before: int) -> tuple[nn.Module, int]:
        """1x3 beside 3x1."""

        def split() -> nn.Module:
            return Branches(unit(self(384), self(384), (1, 3)), unit(self(384), self(384), (3, 1)))

        module = Branches(
            self.chain(before, (320, 1)),
            nn.Sequential(*self.chain(before, (384, 1)), split()),
            nn.Sequential(*self.chain(before, (448, 1), (384, 3)), split()),
            self.pooled(before, 192),
        )
        return module, self(320) + 4 * self(384) + self(192)


def inception_v3(width: float = 1.0) -> nn.Module:
    """23.8 million parameters, pictures of 299."""
    make = Inception(width)
    stem = [make(channels) for channels in (32, 32, 64, 80, 192)]
    layers: list[nn.Module] = [
        unit(3, stem[0], 3, 2, same=False), unit(stem[0], stem[1], 3, same=False), unit(stem[1], stem[2], 3),
        nn.MaxPool2d(3, 2), unit(stem[2], stem[3], 1), unit(stem[3], stem[4], 3, same=False), nn.MaxPool2d(3, 2),
    ]  # fmt: skip
    steps: list[Callable[[int], tuple[nn.Module, int]]] = [
        *(lambda c, pool=pool: make.a(c, pool) for pool in (32, 64, 64)),
        make.to_17,
        *(lambda c, inner=inner: make.b(c, inner) for inner in (128, 160, 160, 192)),
        make.to_8,
        make.c,
        make.c,
    ]
    channels = stem[4]
    for step in steps:
        block, channels = step(channels)
        layers.append(block)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


class Bottleneck(nn.Module):
    """A block of ResNet V2 50: normalise, activate, convolve; 1x1, 3x3, 1x1 (He et al., 2016, arXiv 1603.05027)."""

    def __init__(self, before: int, inner: int, after: int, stride: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (before, inner, inner))
        self.one = nn.Conv2d(before, inner, 1, bias=False)
        self.two = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.three = nn.Conv2d(inner, after, 1, bias=False)
        same = before == after and stride == 1
        self.shortcut = None if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W)."""
        active = self.norms[0](x).relu()
        shortcut = x if self.shortcut is None else self.shortcut(active)
        y = self.two(self.norms[1](self.one(active)).relu())
        return shortcut + self.three(self.norms[2](y).relu())


def resnet_v2_50(width: float = 1.0) -> nn.Module:
    """25.5 million parameters, pictures of 224."""
    inner = max(2, round(64 * width))
    layers: list[nn.Module] = [
        nn.Conv2d(3, inner, 7, 2, padding=3, bias=False),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    channels = inner
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Bottleneck(channels, inner << stage, 4 * inner << stage, stride))
            channels = 4 * inner << stage
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, CLASSES))


NETWORKS: dict[str, tuple[Callable[[float], nn.Module], int]] = {
    "inception-v3": (inception_v3, 299),
    "resnet-v2-50": (resnet_v2_50, 224),
}
"""How to make each, and the side of its pictures."""


class Pictures:
    """Batches without end.

    Args:
        batch: pictures in one.
        side: of a picture.
        device: where they are drawn.
        seed: of patterns and draws.
    """

    def __init__(self, batch: int, side: int, device: torch.device, seed: int = 0) -> None:
        self.batch, self.side = batch, side
        self.generator = torch.Generator(device).manual_seed(seed)
        self.patterns = torch.randn(CLASSES, 3, 7, 7, device=device, generator=self.generator)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, side, side), labels (B)."""
        device = self.patterns.device
        label_B = torch.randint(CLASSES, (self.batch,), device=device, generator=self.generator)
        smooth = functional.interpolate(self.patterns[label_B], size=(self.side, self.side), mode="bilinear")
        noise = torch.randn(smooth.shape, device=device, generator=self.generator)
        return smooth + noise, label_B

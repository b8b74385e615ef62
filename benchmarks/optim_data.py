"""Data of `benchmarks/optim.py`: digits, procedurally drawn pictures, text. Nothing is fetched.

What it does not know: models, optimizers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

SHAPES = ("disc", "ring", "square", "frame", "triangle", "plus", "cross", "bars", "checks", "half moon")
PICTURES = 4000
SIDE = 32


@cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: images (1797, 1, 8, 8) of mean 0 and standard deviation 1, and labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1)
    return (images - images.mean()) / images.std(), torch.tensor(found.target)


def _masks(x: Tensor, y: Tensor) -> list[Tensor]:
    """Which pixels each shape covers; x, y: coordinates turned and scaled so that a shape fills -1..1."""
    r = (x**2 + y**2).sqrt()
    square = (x.abs() < 0.8) & (y.abs() < 0.8)
    period = math.pi * 2.5
    return [
        r < 0.9,
        (r < 0.95) & (r > 0.55),
        square,
        square & ((x.abs() > 0.45) | (y.abs() > 0.45)),
        (y > -0.7) & (y < 0.9 - 1.9 * x.abs()),
        ((x.abs() < 0.25) | (y.abs() < 0.25)) & (x.abs() < 0.9) & (y.abs() < 0.9),
        (((x - y).abs() < 0.33) | ((x + y).abs() < 0.33)) & square,
        square & ((period * x).sin() > 0),
        square & ((period * x).sin() * (period * y).sin() > 0),
        (r < 0.9) & (((x - 0.45) ** 2 + y**2).sqrt() > 0.75),
    ]


@cache
def pictures(count: int = PICTURES) -> tuple[Tensor, Tensor]:
    """Drawn pictures (count, 3, 32, 32), about mean 0 and standard deviation 1, and which of ten shapes each shows.

    One shape of random colour, place, size and angle before a gradient of another colour, with noise.
    """
    generator = torch.Generator().manual_seed(1703_04813)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *size, generator=generator)

    labels = torch.randint(len(SHAPES), (count,), generator=generator)
    axis = torch.linspace(-1, 1, SIDE)
    y, x = (grid[None] for grid in torch.meshgrid(axis, axis, indexing="ij"))
    size, angle = uniform(0.35, 0.75, 1, 1), uniform(-0.5, 0.5, 1, 1)
    dx, dy = x - uniform(-0.3, 0.3, 1, 1), y - uniform(-0.3, 0.3, 1, 1)
    turned = (angle.cos() * dx + angle.sin() * dy) / size, (angle.cos() * dy - angle.sin() * dx) / size
    mask = torch.stack(_masks(*turned), dim=1)[torch.arange(count), labels].float()[:, None]
    slope = uniform(-0.25, 0.25, 3, 1, 1) * x[:, None] + uniform(-0.25, 0.25, 3, 1, 1) * y[:, None]
    back = uniform(-0.5, 0.5, 3, 1, 1)
    images = torch.where(mask > 0, -back.sign() * uniform(0.4, 1, 3, 1, 1), back + slope)
    images = images + 0.1 * torch.randn(images.shape, generator=generator)
    return (images - images.mean()) / images.std(), labels


@cache
def text() -> tuple[Tensor, int]:
    """Characters of Python's own manual (`pydoc_data.topics`) as numbers, and how many kinds there are."""
    from pydoc_data import topics

    raw = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    kinds = sorted(set(raw))
    number = {character: index for index, character in enumerate(kinds)}
    return torch.tensor([number[character] for character in raw]), len(kinds)


def minibatches(images: Tensor, labels: Tensor, size: int) -> Callable[[torch.Generator], Iterator]:
    """Batches drawn with replacement."""

    def batches(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            chosen = torch.randint(len(labels), (size,), generator=generator)
            yield images[chosen], labels[chosen]

    return batches


def windows(characters: Tensor, size: int, length: int) -> Callable[[torch.Generator], Iterator]:
    """Batches of stretches of the text, one character longer than what a model reads."""

    def batches(generator: torch.Generator) -> Iterator[Tensor]:
        while True:
            starts = torch.randint(len(characters) - length, (size, 1), generator=generator)
            yield characters[starts + torch.arange(length + 1)]

    return batches

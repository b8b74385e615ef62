"""Draws pictures of coloured shapes, in numpy alone. Knows no question about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SIZE = 64
"""Height and width of a picture: a multiple of the 16-pixel patches."""

COLORS = {
    "red": (215, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 215),
    "yellow": (235, 205, 40),
    "purple": (145, 60, 175),
    "orange": (240, 135, 30),
    "cyan": (50, 195, 205),
    "black": (35, 35, 35),
}

PLACES = {"left": (-18, 0), "right": (18, 0), "top": (0, -18), "bottom": (0, 18)}
"""Offset (x, y) of a shape from the middle of the picture, in pixels."""


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x**2 + y**2 <= 1


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(abs(x), abs(y)) <= 0.85


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (y <= 0.8) & (abs(x) <= (y + 1) * 0.55)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _circle(x, y) & (x**2 + y**2 >= 0.3)


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}
"""What lies inside a shape of radius 1 around the origin; y points down."""


@dataclass(frozen=True)
class Thing:
    """One shape of a scene, each field a word of `COLORS`, `SHAPES` and `PLACES`."""

    color: str
    shape: str
    place: str


def draw_things(generator: np.random.Generator, count: int) -> list[Thing]:
    """`count` things (at most 4) at different places, no two of the same colour or shape.

    >>> len(draw_things(np.random.default_rng(0), 3))
    3
    """

    def different(words: Sequence[str]) -> list[str]:
        return [words[int(index)] for index in generator.permutation(len(words))[:count]]

    columns = different(list(COLORS)), different(list(SHAPES)), different(list(PLACES))
    return [Thing(*words) for words in zip(*columns, strict=True)]


def render(things: Sequence[Thing], generator: np.random.Generator) -> np.ndarray:
    """Paint things on a pale noisy background.

    Size (radius 6 to 9 pixels), position (±2 pixels), shade, background and noise come from the generator.

    Returns:
        (64, 64, 3) uint8.

    >>> render([Thing("red", "circle", "left")], np.random.default_rng(0))[32, 14].argmax()
    np.int64(0)
    """
    picture = np.broadcast_to(generator.uniform(205, 255, 3), (SIZE, SIZE, 3)).copy()
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for thing in things:
        radius = generator.uniform(6, 9)
        x, y = np.array(PLACES[thing.place]) + generator.uniform(-2, 2, 2) + (SIZE - 1) / 2
        inside = SHAPES[thing.shape]((columns - x) / radius, (rows - y) / radius)
        picture[inside] = np.array(COLORS[thing.color]) + generator.uniform(-15, 15, 3)
    picture += generator.normal(0, 6, picture.shape)
    return picture.round().clip(0, 255).astype(np.uint8)

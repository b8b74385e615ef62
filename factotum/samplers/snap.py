"""Points of the cube to the nearest ones that a search space has: a core's candidates are then what is evaluated."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from factotum.samplers.cube import Cube, Grid, LogGrid, Ordered, Unordered


class Snap:
    """`cube.to_cube(cube.from_cube(x))` for many points at once.

    Args:
        cube: of the search space.

    >>> snap = Snap(Cube({"layers": Grid(1, 1, 4)}))
    >>> snap(torch.tensor([[0.1], [0.99]])).tolist()
    [[0.125], [0.875]]
    """

    def __init__(self, cube: Cube) -> None:
        self._even: list[tuple[int, int]] = []
        self._logarithmic: list[tuple[int, LogGrid]] = []
        self._choices: list[tuple[int, int]] = []
        start = 0
        for axis in cube.axes.values():
            if isinstance(axis, Grid):
                self._even.append((start, axis.count))
            elif isinstance(axis, Ordered):
                self._even.append((start, len(axis.distribution.choices)))
            elif isinstance(axis, LogGrid):
                self._logarithmic.append((start, axis))
            elif isinstance(axis, Unordered):
                self._choices.append((start, start + axis.size))
            start += axis.size

    @property
    def needed(self) -> bool:
        """Whether any coordinate is not continuous."""
        return bool(self._even or self._logarithmic or self._choices)

    def __call__(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """The middles of the cells in which the points lie."""
        x = x.clone()
        if self._even:
            places = [place for place, _ in self._even]
            counts = x.new_tensor([count for _, count in self._even])
            x[..., places] = ((x[..., places] * counts).floor().minimum(counts - 1) + 0.5) / counts
        for place, axis in self._logarithmic:
            x[..., place] = _whole(x[..., place], axis)
        for start, stop in self._choices:
            x[..., start:stop] = _one_of(x[..., start:stop])
        return x


def _whole(u: Tensor, axis: LogGrid) -> Tensor:
    bottom, top = math.log(axis.low - 0.5), math.log(axis.high + 0.5)
    value = (bottom + u.double() * (top - bottom)).exp().round().clamp(axis.low, axis.high)
    return ((value.log() - bottom) / (top - bottom)).to(u.dtype)


def _one_of(u: Tensor) -> Tensor:
    count = u.shape[-1]
    others = torch.full_like(u, 0.5 * count / (count + 1))
    return others.scatter(-1, u.argmax(-1, keepdim=True), count / (count + 1))

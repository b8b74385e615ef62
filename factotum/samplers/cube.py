"""Where does a search space lie in the unit cube? Optuna's distributions to and from coordinates in [0, 1]^D.

One coordinate for a number, an ordered or a two-valued choice; one for each choice otherwise, the largest wins.
Optuna is imported inside functions: bounds alone (`minimize`) need none of it.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, Protocol

from factotum.core.checks import UserError

Distribution = Any
"""One of Optuna's, which is not imported here."""


class Axis(Protocol):
    """A parameter's share of the cube."""

    @property
    def size(self) -> int:
        """How many coordinates it takes."""

    def encode(self, value: Any) -> list[float]:
        """Coordinates of a value: the middle of what decodes to it."""

    def decode(self, coordinates: Sequence[float]) -> Any:
        """The value at some coordinates."""


@dataclass(frozen=True)
class Interval:
    """Real numbers, on a linear or a logarithmic scale.

    >>> Interval(1e-4, 1.0, log=True).encode(0.01), Interval(-1.0, 1.0).decode([0.75])
    ([0.5], 0.5)
    """

    low: float
    high: float
    log: bool = False
    size: int = 1

    def encode(self, value: float) -> list[float]:
        """Share of the way from low to high; what lies outside goes to the nearer end."""
        inside = min(max(float(value), self.low), self.high)
        if self.log:
            return [math.log(inside / self.low) / math.log(self.high / self.low)]
        return [(inside / 2 - self.low / 2) / (self.high / 2 - self.low / 2)]

    def decode(self, coordinates: Sequence[float]) -> float:
        """The number that far between low and high, in exact bounds."""
        u = coordinates[0]
        if self.log:
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low * (1 - u) + self.high * u
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Grid:
    """`count` equally spaced numbers, each with an equal share of the coordinate.

    >>> Grid(0, 2, 5).decode([0.5]), Grid(0, 2, 5).encode(4)
    (4, [0.5])
    """

    low: float
    step: float
    count: int
    high: float = math.inf
    size: int = 1

    def encode(self, value: float) -> list[float]:
        """Middle of the number's share."""
        index = min(max(round((value - self.low) / self.step), 0), self.count - 1)
        return [(index + 0.5) / self.count]

    def decode(self, coordinates: Sequence[float]) -> float:
        """The number in whose share the coordinate lies."""
        index = min(int(coordinates[0] * self.count), self.count - 1)
        return min(self.low + index * self.step, self.high)


@dataclass(frozen=True)
class LogGrid:
    """Whole numbers on a logarithmic scale, from low - 1/2 to high + 1/2.

    >>> LogGrid(1, 1000).decode([0.5])
    22
    """

    low: int
    high: int
    size: int = 1

    def _ends(self) -> tuple[float, float]:
        return math.log(self.low - 0.5), math.log(self.high + 0.5)

    def encode(self, value: int) -> list[float]:
        """Share of the way from low to high."""
        bottom, top = self._ends()
        return [(math.log(min(max(value, self.low), self.high)) - bottom) / (top - bottom)]

    def decode(self, coordinates: Sequence[float]) -> int:
        """The nearest whole number."""
        bottom, top = self._ends()
        return min(max(round(math.exp(bottom + coordinates[0] * (top - bottom))), self.low), self.high)


@dataclass(frozen=True)
class Ordered:
    """Choices in a row on one coordinate: two of them, or numbers that rise or fall."""

    distribution: Distribution
    size: int = 1

    def encode(self, value: Any) -> list[float]:
        """Middle of the choice's share."""
        return [(int(self.distribution.to_internal_repr(value)) + 0.5) / len(self.distribution.choices)]

    def decode(self, coordinates: Sequence[float]) -> Any:
        """The choice in whose share the coordinate lies."""
        count = len(self.distribution.choices)
        return self.distribution.choices[min(int(coordinates[0] * count), count - 1)]


@dataclass(frozen=True)
class Unordered:
    """Choices with a coordinate each; the one whose coordinate is largest is taken."""

    distribution: Distribution
    size: int

    def encode(self, value: Any) -> list[float]:
        """Mean of the part of the cube where this choice is taken: the largest of C uniform numbers, and the rest."""
        count = self.size
        coordinates = [0.5 * count / (count + 1)] * count
        coordinates[int(self.distribution.to_internal_repr(value))] = count / (count + 1)
        return coordinates

    def decode(self, coordinates: Sequence[float]) -> Any:
        """The choice whose coordinate is largest, the first of equals."""
        return self.distribution.choices[max(range(self.size), key=coordinates.__getitem__)]


@dataclass(frozen=True)
class Fixed:
    """A single value: no coordinate."""

    value: Any
    size: int = 0

    def encode(self, value: Any) -> list[float]:
        """Nothing."""
        return []

    def decode(self, coordinates: Sequence[float]) -> Any:
        """The value."""
        return self.value


def make_axis(name: str, distribution: Distribution) -> Axis:
    """The axis of one of Optuna's distributions.

    Raises:
        UserError: it is none of them.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        if distribution.single():
            return Fixed(distribution.choices[0])
        ordered = len(distribution.choices) == 2 or _in_a_row(distribution.choices)
        return Ordered(distribution) if ordered else Unordered(distribution, len(distribution.choices))
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise UserError(
            f"search space: expected a float, int or categorical distribution for {name!r}, got {distribution!r}"
        )
    if distribution.single():
        return Fixed(distribution.low)
    if isinstance(distribution, IntDistribution) and distribution.log:
        return LogGrid(distribution.low, distribution.high)
    if distribution.step is None:
        return Interval(distribution.low, distribution.high, distribution.log)
    width = distribution.high - distribution.low
    exact = isinstance(distribution, IntDistribution)
    count = int(width // distribution.step if exact else round(width / distribution.step)) + 1
    return Grid(distribution.low, distribution.step, count, distribution.high)


def _in_a_row(choices: Sequence[Any]) -> bool:
    """Whether choices are numbers that rise or fall, so that neighbours are likely to be alike."""
    if not all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices):
        return False
    pairs = list(pairwise(choices))
    return all(a < b for a, b in pairs) or all(a > b for a, b in pairs)


class Cube:
    """A search space as the unit cube of its coordinates.

    Args:
        axes: by parameter, in the order of the coordinates.

    >>> cube = Cube({"rate": Interval(-1.0, 1.0), "layers": Grid(1, 1, 4)})
    >>> cube.dimensions, cube.from_cube([0.75, 0.99])
    (2, {'rate': 0.5, 'layers': 4})
    """

    def __init__(self, axes: Mapping[Any, Axis]):
        self.axes = dict(axes)
        self.dimensions = sum(axis.size for axis in self.axes.values())
        places, start = [], 0
        for name, axis in self.axes.items():
            places.append((name, axis, start, start + axis.size))
            start += axis.size
        self._places = places

    @classmethod
    def of_space(cls, space: Mapping[str, Distribution]) -> Cube:
        """The cube of Optuna's distributions by name.

        Raises:
            UserError: a distribution is of an unknown kind.
        """
        return cls({name: make_axis(name, distribution) for name, distribution in space.items()})

    def to_cube(self, params: Mapping[Any, Any]) -> list[float]:
        """Coordinates of a point; NaN for what it has no value for, or a value that is not of the space."""
        x: list[float] = []
        for name, axis, _, _ in self._places:
            try:
                x += axis.encode(params[name])
            except (KeyError, ValueError, TypeError):
                x += [math.nan] * axis.size
        return x

    def from_cube(self, x: Sequence[float]) -> dict[Any, Any]:
        """The point at some coordinates."""
        return {name: axis.decode(x[start:stop]) for name, axis, start, stop in self._places}


TRIES = 64
"""Places at which `new_point` looks."""


def new_point(
    x: Sequence[float], cube: Cube, taken: Iterable[Container[tuple[float, ...]]], draw: Random
) -> dict[Any, Any]:
    """The point at x, or one near it if that was evaluated before; the point at x if there seems to be no other.

    Args:
        x: D coordinates.
        cube: its space.
        taken: coordinates of the points evaluated, as `to_cube` gives them.
        draw: random numbers.

    >>> cube = Cube({"n": Grid(0, 1, 3)})
    >>> new_point([0.5], cube, [{(0.5,)}], Random(0))["n"] in (0, 2)
    True
    """
    first = params = cube.from_cube(x)
    for attempt in range(TRIES):
        place = tuple(cube.to_cube(params))
        if not any(place in places for places in taken):
            return params
        spread = min(1.0, 10 ** (6 * attempt / TRIES - 3))
        params = cube.from_cube([_reflected(u + draw.gauss(0, spread)) for u in x])
    return first


def _reflected(u: float) -> float:
    """Back into [0, 1] as if its ends were mirrors."""
    return 1 - abs(1 - u % 2)

"""What saves time on one study; all of it can be found again from the study's trials.

What it does not know: Optuna, whose trials it is given, and what is proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import attrgetter, is_
from typing import Any

from factotum.samplers.cube import Cube
from factotum.samplers.replay import Replay
from factotum.samplers.snap import Snap
from factotum.samplers.union import Union

Space = Mapping[str, Any]
"""Optuna's distributions by parameter."""

KEPT = 4
"""Search spaces of a study, the newest, for which replays are kept."""


class Memory:
    """A study's finished trials in order, the union of their parameters, and a replay for each search space.

    >>> from types import SimpleNamespace as Trial
    >>> first, second = Trial(number=1, datetime_complete=0), Trial(number=0, datetime_complete=5)
    >>> memory = Memory()
    >>> memory.in_order([first])[1], memory.in_order([second, first])[1]
    ([(1, 0)], [(1, 0), (0, 5)])
    """

    def __init__(self) -> None:
        self.union = Union()
        self._ended: list[Any] = []
        self._finished: list[Any] = []
        self._keys: list[Hashable] = []
        self._cubes: list[tuple[Space, Cube]] = []
        self._replays: list[tuple[Space, Replay]] = []

    def in_order(self, ended: Sequence[Any]) -> tuple[list[Any], list[Hashable]]:
        """Finished trials in the order in which they ended, and a key of each; those of before keep theirs."""
        if len(ended) != len(self._ended) or not all(map(is_, ended, self._ended)):
            finished = sorted(ended, key=attrgetter("datetime_complete"))
            same = len(self._finished)
            if not all(map(is_, finished, self._finished)) or len(finished) < same:
                same = 0
            new = [(one.number, one.datetime_complete) for one in finished[same:]]
            self._ended, self._finished, self._keys = list(ended), finished, self._keys[:same] + new
        return self._finished, self._keys

    def cube(self, space: Space) -> Cube:
        """The cube of a search space."""
        for known, cube in self._cubes:
            if known == space:
                return cube
        self._cubes.insert(0, (dict(space), Cube.of_space(space)))
        del self._cubes[KEPT:]
        return self._cubes[0][1]

    def replay(self, space: Space, make: Callable[[int, Snap], Replay]) -> Replay:
        """The replay in a search space; `make` is given its dimensions and what can be evaluated."""
        for known, replay in self._replays:
            if known == space:
                return replay
        cube = self.cube(space)
        replay = make(cube.dimensions, Snap(cube))
        self._replays.insert(0, (dict(space), replay))
        del self._replays[KEPT:]
        return replay

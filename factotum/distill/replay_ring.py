"""A ring of numbered slots, linked within episodes: stacks are put together along the links. Knows no teacher.

A slot's number counts what was ever written; the window is [low, total). Letters: N numbers, K frames a stack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from factotum.core.checks import UserError
from factotum.distill.replay_files import ReplayFiles, marks

DRAWN, TERMINATED = 1, 2
"""Flags of a slot: it may be drawn; its action ended the episode for good."""

NONE = -1
"""In place of a number: no slot."""

REDRAWS = 100


class Ring:
    """The slots of a replay, and which of them hold its window.

    Args:
        files: the arrays.
    """

    def __init__(self, files: ReplayFiles) -> None:
        self.files, self.layout = files, files.layout
        self.frames, self.records = files.frames, files.records
        self.total, self.low = files.head["total"], files.head["low"]

    def records_of(self, number_N: np.ndarray) -> np.ndarray:
        """The records under given numbers, a copy."""
        return self.records[number_N % self.layout.slots]

    def write(self, frames: np.ndarray, flags: Any, previous: Any, **fields: Any) -> np.ndarray:
        """Fill the next slots and link them to those before them; gives their numbers."""
        number = self.total + np.arange(len(frames))
        if not len(number):
            return number
        records = np.zeros(len(number), self.layout.record)
        records["number"], records["flags"], records["previous"] = number, flags, previous
        records["next"] = NONE
        for name, values in fields.items():
            records[name] = values
        records["mark"] = marks(frames, records)
        start = self.total % self.layout.slots
        room = self.layout.slots - start
        for part, to in ((slice(0, room), start), (slice(room, None), 0)):
            some = records[part]
            self.frames[to : to + len(some)], self.records[to : to + len(some)] = frames[part], some
        linked = records["previous"] >= self.low
        self.records["next"][records["previous"][linked] % self.layout.slots] = number[linked]
        self.total += len(number)
        self.low = max(self.low, self.total - self.layout.capacity)
        return number

    def written(self) -> int:
        """One more than the highest number in any slot, those beyond the window too."""
        return max(self.total, int(self.records["number"].max()) + 1)

    def draw(
        self, count: int, generator: np.random.Generator, good: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Numbers of the window that are `good`, with equal chances and replacement.

        Raises:
            UserError: there are none.
        """
        if self.total == self.low:
            raise UserError("replay: expected steps to draw from, found none")
        number_N = generator.integers(self.low, self.total, count)
        for _ in range(REDRAWS):
            bad_N = ~good(number_N)
            if not bad_N.any():
                return number_N
            number_N[bad_N] = generator.integers(self.low, self.total, bad_N.sum())
        every = np.arange(self.low, self.total)
        every = every[good(every)]
        if not len(every):
            raise UserError("replay: expected whole steps to draw from, found none")
        return every[generator.integers(len(every), size=count)]

    def whole(self, number_N: np.ndarray) -> np.ndarray:
        """Whether slots may be drawn and all of their stack lies in the window."""
        chain_NK = self.chain(number_N)
        inside_N = ((chain_NK == NONE) | (chain_NK >= self.low)).all(1)
        return inside_N & (self.records_of(number_N)["flags"] & DRAWN > 0)

    def followed(self, number_N: np.ndarray) -> np.ndarray:
        """Whether the slot after each in its episode is in the window, or the episode ended there for good."""
        records = self.records_of(number_N)
        next_N = records["next"]
        known_N = (next_N > number_N) & (next_N < self.total)
        # a link may be left over from what was written after the last flush and lost: the way back decides
        back_N = self.records_of(np.where(known_N, next_N, 0))["previous"]
        return (records["flags"] & TERMINATED > 0) | (known_N & (back_N == number_N))

    def chain(self, number_N: np.ndarray) -> np.ndarray:
        """Numbers of each stack's slots, oldest first; NONE before the episode's beginning."""
        chain = [number_N]
        for _ in range(self.layout.stack - 1):
            newer = chain[-1]
            older = self.records_of(np.maximum(newer, 0))["previous"]
            # what lies below the window is overwritten: its own past is not asked for
            chain.append(np.where(newer >= self.low, older, newer))
        return np.stack(chain[::-1], 1)

    def stacked(self, number_N: np.ndarray) -> np.ndarray:
        """Observations, frames before an episode's beginning zero."""
        chain_NK = self.chain(number_N)
        frames = self.frames[np.maximum(chain_NK, 0) % self.layout.slots]
        frames[chain_NK == NONE] = 0
        return frames.reshape(len(number_N), *self.layout.observation_shape)

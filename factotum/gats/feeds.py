"""What each component is given: of recorded windows in training, of observations when acting; the same in both.

What it does not know: models, environments, files. Letters: B rows, T steps of a window, A numbers of an action,
F frames, S numbers of a state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from factotum.gats.actions import ActionTokens
from factotum.gats.agent import Observe
from factotum.gats.moment import Moment
from factotum.gats.objective import IGNORED
from factotum.gats.words import Words

Given = tuple[dict[str, Any], Tensor]
"""Keyword arguments of a component's forward, and arrival times."""


@dataclass
class Windows:
    """B recorded windows of at most T steps.

    Args:
        texts: the instruction of each.
        lengths_B: how many steps are there.
        columns: observations and "action", `B T ...`; what is behind the end is not read.
    """

    texts: list[str]
    lengths_B: np.ndarray
    columns: dict[str, np.ndarray]

    @property
    def steps_BT(self) -> Tensor:
        """Number of each step from the window's start, NaN behind its end."""
        steps_T = torch.arange(int(self.lengths_B.max()), dtype=torch.float64)
        steps_BT = steps_T.expand(len(self.lengths_B), -1)
        return steps_BT.masked_fill(steps_T >= torch.from_numpy(self.lengths_B)[:, None], float("nan"))


class Feed(Protocol):
    """Gives one component what it reads."""

    def taught(self, windows: Windows) -> Given:
        """Of recorded windows, all at once."""
        ...

    def observed(self, observations: Sequence[Any], steps_B: np.ndarray) -> Given | None:
        """Of observations at each row's step; None where nothing arrives in any row."""
        ...


@dataclass(frozen=True)
class InstructionFeed:
    """The instruction where a window or an episode begins, and again every so many steps.

    Args:
        words: from sentences to ids.
        every: steps between its arrivals when acting; 0 for once. In training a window has it once, at its start.
    """

    words: Words
    every: int = 0

    def taught(self, windows: Windows) -> Given:
        """Of recorded windows."""
        return self._given(windows.texts, torch.zeros(len(windows.texts), dtype=torch.float64))

    def observed(self, observations: Sequence[Any], steps_B: np.ndarray) -> Given | None:
        """Of observations with an "instruction"."""
        due_B = steps_B % self.every == 0 if self.every else steps_B == 0
        if not due_B.any():
            return None
        times_B = torch.from_numpy(np.where(due_B, steps_B, np.nan).astype(np.float64))
        return self._given([observation["instruction"] for observation in observations], times_B)

    def _given(self, texts: list[str], times_B: Tensor) -> Given:
        ids_BE, there_BE = self.words(texts)
        times_BE = times_B[:, None].expand(-1, ids_BE.shape[1]).masked_fill(~there_BE, float("nan"))
        return {"input_ids": ids_BE, "attention_mask": there_BE.long()}, times_BE


@dataclass(frozen=True)
class PictureFeed:
    """A picture at every step, or at every so many steps.

    Args:
        key: of the observation, `H W C` bytes.
        size: height and width that the component sees: the upper left part of the picture.
        every: steps between pictures.
    """

    key: str
    size: int
    every: int = 1

    def taught(self, windows: Windows) -> Given:
        """Of recorded windows."""
        times_BF = windows.steps_BT[:, :: self.every]
        frames = windows.columns[self.key][:, : windows.steps_BT.shape[1] : self.every]
        return {"pixel_values": pixels(frames.reshape(-1, *frames.shape[2:]), self.size)}, times_BF

    def observed(self, observations: Sequence[Any], steps_B: np.ndarray) -> Given | None:
        """Of observations; rows where no picture is due are absent."""
        due_B = steps_B % self.every == 0
        if not due_B.any():
            return None
        frames = np.stack([observation[self.key] for observation in observations])
        times_B1 = torch.from_numpy(np.where(due_B, steps_B, np.nan).astype(np.float64))[:, None]
        return {"pixel_values": pixels(frames, self.size)}, times_B1


def pixels(frames_RHWC: np.ndarray, size: int) -> Tensor:
    """Bytes as numbers from -1 to 1, `R C H W`, cut to their upper left part.

    >>> pixels(np.full((1, 4, 4, 3), 255, np.uint8), 2).shape
    torch.Size([1, 3, 2, 2])
    """
    cut = np.ascontiguousarray(frames_RHWC[:, :size, :size])
    return torch.from_numpy(cut).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


@dataclass(frozen=True)
class StateFeed:
    """A vector of numbers at every step, normalised.

    Args:
        key: of the observation.
        mean_S, scale_S: what is taken off and what it is divided by.
    """

    key: str
    mean_S: np.ndarray
    scale_S: np.ndarray

    def taught(self, windows: Windows) -> Given:
        """Of recorded windows."""
        times_BT = windows.steps_BT
        states = windows.columns[self.key][:, : times_BT.shape[1]]
        return {"state": self._normal(states.reshape(-1, states.shape[-1]))}, times_BT

    def observed(self, observations: Sequence[Any], steps_B: np.ndarray) -> Given | None:
        """Of observations."""
        states = np.stack([observation[self.key] for observation in observations])
        return {"state": self._normal(states)}, torch.from_numpy(steps_B.astype(np.float64))[:, None]

    def _normal(self, states_RS: np.ndarray) -> Tensor:
        normal = (states_RS - self.mean_S) / self.scale_S
        return torch.from_numpy(normal.clip(-10.0, 10.0).astype(np.float32))


@dataclass(frozen=True)
class ActionFeed:
    """The component that acts: reads the id before (at a window's start `begin`) and says the next one."""

    tokens: ActionTokens

    def taught(self, windows: Windows) -> Given:
        """Ids that are read, when."""
        read_BT, _ = self.tokens.taught(self._ids(windows))
        return {"input_ids": read_BT}, self.tokens.times(windows.steps_BT)

    def observed(self, observations: Sequence[Any], steps_B: np.ndarray) -> Given | None:
        """Nothing: what acts is given its ids by the agent."""
        return None

    def targets(self, windows: Windows) -> Tensor:
        """Ids that should be said, IGNORED behind the end."""
        _, said_BT = self.tokens.taught(self._ids(windows))
        return said_BT.masked_fill(self.tokens.times(windows.steps_BT).isnan(), IGNORED)

    def _ids(self, windows: Windows) -> Tensor:
        T = int(windows.lengths_B.max())
        ids_BTA = np.zeros((len(windows.lengths_B), T, self.tokens.numbers), np.int64)
        for row, length in enumerate(windows.lengths_B):
            for step in range(length):
                ids_BTA[row, step] = self.tokens.encode(windows.columns["action"][row, step])
        return torch.from_numpy(ids_BTA)


def observe_with(feeds: Mapping[str, Feed], device: torch.device | str = "cpu") -> Observe:
    """What `GATSAgent` asks for: from observations and steps to what arrives at each component, on a device."""

    def observe(observations: Sequence[Any], steps_B: np.ndarray) -> Moment:
        given = {name: feed.observed(observations, steps_B) for name, feed in feeds.items()}
        there = {name: found for name, found in given.items() if found is not None}
        return Moment(
            {name: {key: x.to(device) for key, x in inputs.items()} for name, (inputs, _) in there.items()},
            {name: times.to(device) for name, (_, times) in there.items()},
        )

    return observe

"""What would the core propose next? Its state is a replay of what was evaluated, kept from call to call.

Nothing that matters is remembered: a replay that starts from nothing with the same evaluations in the same order
proposes the same, so that restarts and other processes agree. What is kept saves time: one step a new result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from factotum.core.checks import UserError
from factotum.samplers.history import Observation
from factotum.samplers.model import load_core
from factotum.samplers.snap import Snap

DEFAULT_WEIGHTS = "acquisition"
"""Shipped weights that serve every number of dimensions."""

LARGEST = 1e300
"""Magnitude to which values are cut, so that their differences are finite."""


class Told(NamedTuple):
    """A finished evaluation.

    Attributes:
        x: D coordinates; NaN for those that it had no value for.
        y: its value, to be minimised; NaN or infinity: as bad as the worst seen; minus infinity: as the best.
        pruned: `y` is not of a whole evaluation: it counts as no better than the median seen.
    """

    x: Sequence[float]
    y: float
    pruned: bool = False


class Node(NamedTuple):
    """The replay after one evaluation: its point, its value if it had one, and the core's answer."""

    key: Hashable
    x: list[float]
    value: float | None
    proposal: list[float]
    state: Any
    fed: int


class Replay:
    """A core fed with evaluations in the order in which they ended, then with those that still run.

    Args:
        core: of `factotum.samplers.model`.
        dimensions: D.
        budget: evaluations planned; past it, or past what the core was trained for, they are counted anew.
        seed: of the core's start.
        snap: points of the cube to those that can be evaluated, for cores that choose among such points.

    Raises:
        UserError: the core was not trained for D.
    """

    def __init__(
        self, core: nn.Module, dimensions: int, budget: int, seed: int, snap: Snap | None = None
    ) -> None:
        if not fits(core, dimensions):
            raise UserError(
                f"search space: expected {trained_dimensions(core)} coordinates, for which the weights were "
                f"trained, got {dimensions}"
            )
        config: Any = core.config
        self.core, self.period = core, min(budget, config.budget)
        self._like = next(core.parameters(), torch.empty(0))
        self._remaining = (self.period - torch.arange(self.period)).to(self._like).split(1)
        self._observed = torch.tensor([False, True], device=self._like.device).split(1)
        self._values: list[float] = []
        with torch.inference_mode():
            told = {"snap": snap} if config.chooses and snap is not None and snap.needed else {}
            state = core.initial_state(1, dimensions, torch.Generator().manual_seed(seed), **told)  # type: ignore[operator]
        x = [0.5] * dimensions
        proposal, state = self._step(x, None, 0, state)
        self._nodes = [Node(None, x, None, proposal, state, 0)]
        self.points: set[tuple[float, ...]] = set()
        """Where evaluations were made."""

    def propose(
        self, keys: Sequence[Hashable], read: Callable[[int], Told], pending: Sequence[Sequence[float]] = ()
    ) -> tuple[list[float], list[list[float]]]:
        r"""$x_t$ after the finished evaluations and the pending ones.

        Args:
            keys: one a finished evaluation, in the order in which they ended; equal keys: the same evaluation.
            read: the evaluation at a place in `keys`; asked for those alone that are new.
            pending: coordinates of evaluations that still run; NaN where not yet known, which are taken to be
                what is proposed here.

        Returns:
            The D coordinates proposed, and those of the pending evaluations with nothing unknown.
        """
        self._rewind(keys)
        for index in range(len(self._nodes) - 1, len(keys)):
            self._append(keys[index], read(index))
        last = self._nodes[-1]
        proposal, state, filled = last.proposal, last.state, []
        for place, known in enumerate(pending, 1):
            x = [guess if math.isnan(u) else u for u, guess in zip(known, proposal, strict=True)]
            proposal, state = self._step(x, None, last.fed + place, state)
            filled.append(x)
        return proposal, filled

    def _rewind(self, keys: Sequence[Hashable]) -> None:
        """Go back to where what was fed and `keys` part."""
        mine = [node.key for node in self._nodes[1:]]
        if mine == keys[: len(mine)]:
            return
        same = next((i for i, (a, b) in enumerate(zip(mine, keys, strict=False)) if a != b), len(keys))
        del self._nodes[same + 1 :]
        self._values = [node.value for node in self._nodes if node.value is not None]
        self.points = {tuple(node.x) for node in self._nodes[1:]}

    def _append(self, key: Hashable, told: Told) -> None:
        before = self._nodes[-1]
        if all(map(math.isnan, told.x)):
            # It failed before it took any value: there is nothing to learn.
            self._nodes.append(before._replace(key=key, value=None))
            return
        # What a conditional parameter would have been is not known: it counts as what was proposed. Left where it
        # was, all its other values would look unexplored for ever.
        x = [guess if math.isnan(u) else u for u, guess in zip(told.x, before.proposal, strict=True)]
        y = self._value(told)
        proposal, state = self._step(x, y, before.fed + 1, before.state)
        value = y if math.isfinite(told.y) else None
        self._nodes.append(Node(key, x, value, proposal, state, before.fed + 1))
        self.points.add(tuple(x))
        if value is not None:
            self._values.append(value)

    def _value(self, told: Told) -> float | None:
        """What the core is told; None where there is nothing yet to compare a failure with."""
        if math.isfinite(told.y):
            y = min(max(told.y, -LARGEST), LARGEST)
            return max(y, median(self._values)) if told.pruned and self._values else y
        if not self._values:
            return None
        return min(self._values) if told.y == -math.inf else max(self._values)

    @torch.inference_mode()
    def _step(self, x: list[float], y: float | None, counted: int, state: Any) -> tuple[list[float], Any]:
        observation = Observation(
            self._like.new_tensor([x]),
            # double precision: small differences of large values count
            torch.tensor([0.0 if y is None else y], dtype=torch.float64, device=self._like.device),
            self._observed[y is not None],
            self._remaining[counted % self.period],
        )
        x_BD, state = self.core.step(observation, state)  # type: ignore[operator]
        return x_BD[0].tolist(), state


def core_of(weights: str | Path | nn.Module) -> nn.Module:
    """A core as it is, or by the name of shipped weights or the folder of one's own.

    Raises:
        UserError: there are none of that name, or they cannot be read.
    """
    return weights.eval() if isinstance(weights, nn.Module) else load_core(weights)


def fits(core: nn.Module, dimensions: int) -> bool:
    """Whether a core was made for D coordinates."""
    config: Any = core.config
    return 1 <= dimensions <= config.dimensions and (config.any_dimensions or dimensions == config.dimensions)


def trained_dimensions(core: nn.Module) -> str:
    """In words, what `fits`."""
    config: Any = core.config
    return f"1 to {config.dimensions}" if config.any_dimensions else f"exactly {config.dimensions}"

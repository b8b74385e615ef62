"""Actions as ids: each number of an action is one id, whatever the space.

What it does not know: models. Letters: B rows, N steps, A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor

from factotum.core.checks import UserError, require_finite


class ActionTokens:
    """Ids of actions, from 0 in every number of the action, and one id more that begins an episode.

    A discrete number is its own id. A continuous one is the bin of its range that it lies in; back it is the middle.
    The component that acts reads, at each step, the last id before (`begin` at first) and then all but the last of
    the action's own ids; at each it says the next one.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary or a bounded Box.
        bins: of a continuous number.

    Raises:
        UserError: another space, or bounds that are not finite.

    >>> tokens = ActionTokens(spaces.Box(-1.0, 1.0, (2,)), bins=4)
    >>> tokens.encode(np.array([-1.0, 0.6])).tolist(), tokens.decode([0, 3])
    ([0, 3], array([-0.75,  0.75], dtype=float32))
    >>> tokens.size, tokens.begin
    (5, 4)
    """

    def __init__(self, space: spaces.Space, bins: int = 256) -> None:
        self.space, self.bins = space, bins
        if isinstance(space, spaces.Box):
            if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
                raise UserError(f"action space: expected a Box with finite bounds, got {space}")
            if bins < 2:
                raise UserError(f"bins: expected at least 2, got {bins}")
            counts = [bins] * space.low.size
        elif isinstance(space, spaces.Discrete):
            counts = [int(space.n)]
        elif isinstance(space, spaces.MultiDiscrete):
            counts = [int(n) for n in space.nvec.ravel()]
        elif isinstance(space, spaces.MultiBinary):
            counts = [2] * int(np.prod(space.shape))
        else:
            raise UserError(
                f"action space: expected Discrete, MultiDiscrete, MultiBinary or Box, got {type(space).__name__}"
            )
        self.counts = tuple(counts)
        self.begin = max(counts)

    @property
    def numbers(self) -> int:
        """A."""
        return len(self.counts)

    @property
    def size(self) -> int:
        """V, ids that the component that acts has to know."""
        return self.begin + 1

    def encode(self, action: Any) -> Int[np.ndarray, " A"]:
        """Ids of one action; numbers outside of a Box count as its edge.

        Raises:
            UserError: another number of numbers, a number that is not finite, a discrete one outside of the space.
        """
        values = np.asarray(action, np.float64).ravel()
        if len(values) != self.numbers:
            raise UserError(f"action: expected {self.numbers} numbers, got {len(values)}")
        require_finite("action", values)
        if isinstance(self.space, spaces.Box):
            low, high = self.space.low.ravel().astype(np.float64), self.space.high.ravel().astype(np.float64)
            share = (values - low) / np.maximum(high - low, 1e-12)
            return np.clip(np.floor(share * self.bins), 0, self.bins - 1).astype(np.int64)
        ids = values.astype(np.int64) - self._start()
        wrong = (ids < 0) | (ids >= np.asarray(self.counts)) | (values != np.floor(values))
        if wrong.any():
            raise UserError(f"action: expected one of {self.space}, got {action!r}")
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> Any:
        """The action of A ids."""
        numbers = np.asarray(ids, np.int64)
        if isinstance(self.space, spaces.Box):
            low, high = self.space.low.ravel().astype(np.float64), self.space.high.ravel().astype(np.float64)
            values = low + (numbers + 0.5) / self.bins * (high - low)
            return values.reshape(self.space.shape).astype(self.space.dtype)
        values = numbers + self._start()
        if isinstance(self.space, spaces.Discrete):
            return int(values[0])
        return values.reshape(self.space.shape or ()).astype(self.space.dtype)

    def taught(
        self, ids_BNA: Int[Tensor, "B N A"], begins_BN: Tensor | None = None
    ) -> tuple[Int[Tensor, "B NA"], Int[Tensor, "B NA"]]:
        """What the acting component reads and what it should say, for recorded actions of N steps.

        Args:
            begins_BN: which steps begin an episode; by default the first.

        >>> ActionTokens(spaces.MultiDiscrete([3, 3])).taught(torch.tensor([[[0, 1], [2, 0]]]))
        (tensor([[3, 0, 1, 2]]), tensor([[0, 1, 2, 0]]))
        """
        said_BT = ids_BNA.flatten(1)
        begin_B1 = torch.full_like(said_BT[:, :1], self.begin)
        read_BT = torch.cat([begin_B1, said_BT[:, :-1]], 1)
        if begins_BN is not None:
            A = ids_BNA.shape[2]
            read_BT[:, ::A] = read_BT[:, ::A].masked_fill(begins_BN, self.begin)
        return read_BT, said_BT

    def times(self, step_BN: Float[Tensor, "B N"]) -> Float[Tensor, "B NA"]:
        r"""When the ids of each step arrive: $k + (j + 1) / (A + 1)$, behind what is observed at k.

        >>> ActionTokens(spaces.MultiDiscrete([3, 3, 3])).times(torch.tensor([[0.0, 1.0]]))
        tensor([[0.2500, 0.5000, 0.7500, 1.2500, 1.5000, 1.7500]])
        """
        A = self.numbers
        parts_A = torch.arange(1, A + 1, device=step_BN.device) / (A + 1)
        return (step_BN[..., None] + parts_A).flatten(-2)

    def _start(self) -> np.ndarray:
        if isinstance(self.space, spaces.MultiDiscrete):
            return np.asarray(getattr(self.space, "start", 0)).ravel()
        return np.asarray(getattr(self.space, "start", 0))

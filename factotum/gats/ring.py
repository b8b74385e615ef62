"""Keys and values of the last elements of each row: the memory of exact decoding.

One `Ring` serves all layers that see the same elements: each GATS layer's keys of one modality, or the self-attention
of one component. Rows count their own elements, so rows of different rates share one tensor.

What it does not know: what made the keys, and which of them a query may see.

Letters: B rows, T new elements, S slots, H heads, K head size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

FREE = -1
"""Index of a slot that holds nothing."""
FIRST_CAPACITY = 64
"""Slots of a ring without a bound, before it doubles."""


class Arrival(NamedTuple):
    """What one call of `Ring.arrive` settled for all layers of a step.

    Args:
        index_BT: running index of each new element within its row; -1 where there is none.
        slot_BT: where it goes; the last slot is a bin for what is not kept.
        key_index_BS: running index of every key that `Ring.store` gives back; -1 where there is none.
        joined: whether these are the old keys and behind them the new ones, or the ring after the new ones came in.
    """

    index_BT: Tensor
    slot_BT: Tensor
    key_index_BS: Tensor
    joined: bool


@dataclass
class Ring:
    """A ring of `size` slots in every row (or of as many as there are elements), and one slot more as a bin.

    >>> ring = Ring.empty(rows=1, size=2)
    >>> for value in (1.0, 2.0, 3.0):
    ...     arrival = ring.arrive(torch.ones(1, 1, dtype=torch.bool), joined=False)
    ...     keys, _ = ring.store(0, arrival, torch.full((1, 1, 1, 1), value), torch.zeros(1, 1, 1, 1))
    >>> keys.flatten().tolist()[:2], arrival.key_index_BS.tolist()
    ([3.0, 2.0], [[2, 1, -1]])
    """

    size: int | None
    keys: dict[int, Tensor]
    values: dict[int, Tensor]
    index_BS: Tensor
    count_B: Tensor
    reach: int = 0

    @classmethod
    def empty(cls, rows: int, size: int | None, device: torch.device | str = "cpu") -> Ring:
        """Nothing kept yet; without `size` everything is kept, and the ring grows."""
        slots = (FIRST_CAPACITY if size is None else size) + 1
        return cls(
            size=size,
            keys={},
            values={},
            index_BS=torch.full((rows, slots), FREE, device=device),
            count_B=torch.zeros(rows, dtype=torch.long, device=device),
        )

    def arrive(self, valid_BT: Bool[Tensor, "B T"], joined: bool) -> Arrival:
        """Count the valid new elements of each row and give them their slots; keys follow by `store`.

        Args:
            valid_BT: which of the new elements are there.
            joined: whether `store` gives the old keys and the new ones; else the ring after the new ones came in,
                which is enough for one new element of which nothing older is asked.
        """
        if self.size is None:
            joined = False  # nothing is overwritten
            self.reach += valid_BT.shape[1]
            if self.reach > self.index_BS.shape[1] - 1:
                self.reach = int(self.count_B.max()) + valid_BT.shape[1]
                self._grow(self.reach)
        slots = self.index_BS.shape[1] - 1
        index_BT = self.count_B[:, None] + valid_BT.long().cumsum(1) - 1
        self.count_B = self.count_B + valid_BT.sum(1)
        kept_BT = valid_BT & (index_BT >= self.count_B[:, None] - slots)
        slot_BT = torch.where(kept_BT, index_BT % slots, slots)
        index_BT = torch.where(valid_BT, index_BT, FREE)
        before_BS = self.index_BS
        self.index_BS = before_BS.scatter(1, slot_BT, index_BT)
        self.index_BS[:, slots] = FREE
        reach = slots + 1 if self.size is not None else self.reach
        seen = torch.cat([before_BS, index_BT], 1) if joined else self.index_BS[:, :reach]
        return Arrival(index_BT, slot_BT, seen, joined)

    def here(self) -> Arrival:
        """What a step without new elements sees."""
        none_B0 = self.index_BS[:, :0]
        return Arrival(none_B0, none_B0, self.index_BS, False)

    def store(
        self, layer: int, arrival: Arrival, k_BHTK: Float[Tensor, "B H T K"], v_BHTK: Float[Tensor, "B H T K"]
    ) -> tuple[Tensor, Tensor]:
        """Keep a layer's new keys and values; all that this step could see, in the order of `key_index_BS`."""
        keys, values = self._slots(layer, k_BHTK, v_BHTK)
        k_BHTK, v_BHTK = k_BHTK.to(keys.dtype), v_BHTK.to(values.dtype)
        S = arrival.key_index_BS.shape[1]
        seen = keys[:, :, :S], values[:, :, :S]
        if arrival.joined:
            seen = torch.cat([keys, k_BHTK], 2), torch.cat([values, v_BHTK], 2)
        rows_B1 = torch.arange(len(k_BHTK), device=k_BHTK.device)[:, None]
        keys[rows_B1, :, arrival.slot_BT] = k_BHTK.transpose(1, 2)
        values[rows_B1, :, arrival.slot_BT] = v_BHTK.transpose(1, 2)
        return seen

    def kept(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """A layer's keys and values as they are; None before the first came."""
        return (self.keys[layer], self.values[layer]) if layer in self.keys else None

    def reset_rows(self, rows: Int[Tensor, " R"]) -> None:
        """Forget everything of the given rows."""
        self.index_BS[rows] = FREE
        self.count_B[rows] = 0

    def select(self, rows: Int[Tensor, " R"]) -> Ring:
        """A copy with the given rows, in their order and as often as they are named."""
        return replace(
            self,
            keys={layer: keys[rows] for layer, keys in self.keys.items()},
            values={layer: values[rows] for layer, values in self.values.items()},
            index_BS=self.index_BS[rows],
            count_B=self.count_B[rows],
        )

    def put(self, rows: Int[Tensor, " R"], other: Ring) -> None:
        """Put the rows of `other` into `rows`."""
        S = other.index_BS.shape[1]
        if self.size is None:
            self._grow(S - 1)
            self.reach = max(self.reach, other.reach)
        self.reset_rows(rows)
        self.index_BS[rows, : S - 1] = other.index_BS[:, :-1]
        self.count_B[rows] = other.count_B
        for layer in other.keys:
            theirs = other.keys[layer], other.values[layer]
            example = [part.new_zeros(len(self.count_B), *part.shape[1:]) for part in theirs]
            for mine, part in zip(self._slots(layer, *example), theirs, strict=True):
                mine[rows, :, : S - 1] = part[:, :, :-1]

    def _grow(self, slots: int) -> None:
        """Make room for rows of `slots` elements, by doubling."""
        have = self.index_BS.shape[1] - 1
        if slots <= have:
            return
        more = max(have, slots - have)
        free = self.index_BS.new_full((len(self.index_BS), more), FREE)
        self.index_BS = torch.cat([self.index_BS[:, :-1], free, self.index_BS[:, -1:]], 1)
        for parts in (self.keys, self.values):
            for layer, part in parts.items():
                parts[layer] = F.pad(part, (0, 0, 0, more))

    def _slots(self, layer: int, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self.keys:
            S = self.index_BS.shape[1]
            for parts, new_BHTK in ((self.keys, k_BHTK), (self.values, v_BHTK)):
                B, H, _, K = new_BHTK.shape
                parts[layer] = new_BHTK.new_zeros(B, H, S, K)
        return self.keys[layer], self.values[layer]

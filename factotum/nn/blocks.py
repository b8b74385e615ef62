"""A decoder of pre-norm blocks: parallel over a sequence, or stepwise over a sliding window of keys.

What it does not know: tokens, embeddings, heads. Letters as in `factotum.nn.attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from factotum.nn.attention import ATTENTIONS, RelativeAttention, RotaryAttention

Store = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class GatedFeedForward(nn.Module):
    """GEGLU (arXiv 2002.05202): `hidden` is the width before the gate halves it.

    >>> GatedFeedForward(width=8, hidden=32)(torch.randn(2, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(width, hidden, bias=False)
        self.output = nn.Linear(hidden // 2, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply at every position."""
        value, gate = self.input.weight.chunk(2)  # two products: halves of one would lie strided in memory
        return self.output(F.linear(x, value) * F.gelu(F.linear(x, gate)))


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with stochastic depth (arXiv 1603.09382) on its branch."""

    def __init__(
        self, width: int, heads: int, head_size: int, hidden: int, positions: str, drop: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention: RotaryAttention | RelativeAttention = ATTENTIONS[positions](width, heads, head_size)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = GatedFeedForward(width, hidden)
        self.drop = drop

    def forward(self, x_BTD: Tensor, positions_BT: Tensor, mask_B1TT: Tensor | None) -> Tensor:
        """All positions at once."""
        x = x_BTD + self._keep(self.attention(self.attention_norm(x_BTD), positions_BT, mask_B1TT))
        return x + self._keep(self.feed_forward(self.feed_forward_norm(x)))

    def step(
        self, x_BTD: Tensor, positions_BT: Tensor, store: Store, distance_BTS: Tensor, mask_BTS: Tensor
    ) -> Tensor:
        """New positions alone; `store` takes their keys and values and gives all that can be seen."""
        q, k, v = self.attention.keys_values(self.attention_norm(x_BTD), positions_BT)
        k, v = store(k, v)
        x = x_BTD + self.attention.attend(q, k.to(q.dtype), v.to(q.dtype), distance_BTS, mask_BTS[:, None])
        return x + self.feed_forward(self.feed_forward_norm(x))

    def _keep(self, branch_BTD: Tensor) -> Tensor:
        if not self.training or self.drop == 0.0:
            return branch_BTD
        keep = torch.rand(branch_BTD.shape[0], 1, 1, device=branch_BTD.device) >= self.drop
        return branch_BTD * (keep / (1.0 - self.drop)).to(branch_BTD.dtype)


@dataclass
class Cache:
    """Keys and values of the last positions of each row, in a ring; the carried state of a `Decoder`.

    The last slot is a bin for positions that are not there. A position of -1 marks a free slot.
    """

    keys: list[Tensor]
    values: list[Tensor]
    positions_BS: Tensor
    next_B: Tensor

    def store(
        self, layer: int, rows_B1: Tensor, slot_BT: Tensor, filled: int, k_BHTK: Tensor, v_BHTK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put a layer's new keys and values into their slots; all filled slots, `B H S K`."""
        keys, values = self.keys[layer], self.values[layer]
        keys[rows_B1, :, slot_BT] = k_BHTK.transpose(1, 2).to(keys.dtype)
        values[rows_B1, :, slot_BT] = v_BHTK.transpose(1, 2).to(values.dtype)
        return keys[:, :, :filled], values[:, :, :filled]

    def reset_rows(self, rows: Tensor) -> None:
        """Forget everything of the given rows."""
        self.positions_BS[rows] = -1
        self.next_B[rows] = 0

    def copy_row(self, rows: Tensor, other: Cache) -> None:
        """Put the one row of `other` into `rows`."""
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values, strict=True):
            mine[rows] = theirs
        self.positions_BS[rows] = other.positions_BS
        self.next_B[rows] = other.next_B


class Decoder(nn.Module):
    """Causal blocks that see the last `window` positions (arXiv 2205.06175, section 2.3 and appendix C.1).

    Stepping far beyond the window keeps the states of earlier positions as they were computed: this is
    Transformer-XL's memory, and equals a parallel pass with a banded mask, not a re-encoding of a cut window.
    """

    CHUNK = 256

    def __init__(
        self,
        *,
        layers: int,
        width: int,
        heads: int,
        head_size: int,
        hidden: int,
        window: int,
        positions: str = "rotary",
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, head_size, hidden, positions, drop) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.window, self.heads, self.head_size = window, heads, head_size

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], segments_BT: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """All positions at once; positions of different segments do not see one another."""
        positions = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
        mask = self._mask(positions, segments_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, positions, mask)
        return self.norm(x_BTD)

    def _mask(self, positions_1T: Tensor, segments_BT: Tensor | None) -> Bool[Tensor, "#B 1 T T"] | None:
        T = positions_1T.shape[1]
        if segments_BT is None and self.window >= T:
            return None
        distance = positions_1T[:, :, None] - positions_1T[:, None, :]
        mask = (distance >= 0) & (distance < self.window)
        if segments_BT is not None:
            mask = mask & (segments_BT[:, :, None] == segments_BT[:, None, :])
        return mask[:, None]

    def initial_state(self, batch_size: int) -> Cache:
        """An empty cache for `batch_size` rows."""
        weight = self.norm.weight
        slots = self.window + self.CHUNK
        shape = (batch_size, self.heads, slots + 1, self.head_size)
        return Cache(
            keys=[weight.new_zeros(shape) for _ in self.blocks],
            values=[weight.new_zeros(shape) for _ in self.blocks],
            positions_BS=torch.full((batch_size, slots + 1), -1, device=weight.device),
            next_B=torch.zeros(batch_size, dtype=torch.long, device=weight.device),
        )

    def step(
        self, inputs: tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"]], state: Cache
    ) -> tuple[Float[Tensor, "B T D"], Cache]:
        """Append the valid positions of each row and return their outputs; the state is changed in place."""
        x_BTD, valid_BT = inputs
        outputs = [
            self._step_chunk(x, valid, state)
            for x, valid in zip(x_BTD.split(self.CHUNK, 1), valid_BT.split(self.CHUNK, 1), strict=True)
        ]
        return torch.cat(outputs, dim=1), state

    def _step_chunk(self, x_BTD: Tensor, valid_BT: Tensor, cache: Cache) -> Tensor:
        slots = self.window + self.CHUNK
        positions_BT = cache.next_B[:, None] + valid_BT.long().cumsum(1) - 1
        slot_BT = torch.where(valid_BT, positions_BT % slots, slots)
        rows_B1 = torch.arange(len(x_BTD), device=x_BTD.device)[:, None]
        cache.positions_BS[rows_B1, slot_BT] = torch.where(valid_BT, positions_BT, -1)
        cache.positions_BS[:, slots] = -1
        cache.next_B += valid_BT.sum(1)
        filled = min(int(cache.next_B.max()), slots)
        key_positions_BS = cache.positions_BS[:, :filled]
        distance_BTS = positions_BT[:, :, None] - key_positions_BS[:, None, :]
        mask_BTS = (key_positions_BS[:, None] >= 0) & (distance_BTS >= 0) & (distance_BTS < self.window)
        mask_BTS = (
            mask_BTS | ~valid_BT[:, :, None]
        )  # a row of the bin attends anywhere, so that it stays finite
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            store = partial(cache.store, layer, rows_B1, slot_BT, filled)
            x_BTD = block.step(x_BTD, positions_BT, store, distance_BTS.clamp(min=0), mask_BTS)
        return self.norm(x_BTD)

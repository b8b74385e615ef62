"""A causal module without a cache, run piece by piece: over all of its elements again at each step.

The activations of old elements are put back at each graft, so that what entered them once stays. Exact, but a step
costs in proportion to the length of the row.

What it does not know: what else there is. Letters: B rows, T new elements, S all elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from factotum.gats.past import NoPast
from factotum.gats.taps import Stop


class ReplayedPast(NoPast):
    """Inputs and activations of a causal module without a cache: it runs over all of them at every step.

    Its elements lie along axis 1 of its inputs and outputs; inputs of other shapes pass as they are.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.room = rows, 0
        self.count_B = torch.zeros(rows, dtype=torch.long)
        self.inputs: dict[str, Tensor] = {}
        self.hidden: dict[int, Tensor] = {}
        self.where_BT = torch.zeros(rows, 0, dtype=torch.long)
        self.old_BS1 = torch.zeros(rows, 0, 1, dtype=torch.bool)

    def prepare(self, inputs: Mapping[str, Any], valid_BT: Tensor) -> dict[str, Any]:
        """All elements so far and the new ones as one input; those of a row stand together, padding behind them."""
        B, T = valid_BT.shape
        self.count_B = self.count_B.to(valid_BT.device)
        index_BT = self.count_B[:, None] + valid_BT.long().cumsum(1) - 1
        before_B, self.count_B = self.count_B, self.count_B + valid_BT.sum(1)
        self.room = int(self.count_B.max())
        self.where_BT = torch.where(valid_BT, index_BT, self.room)
        places = torch.arange(self.room + 1, device=valid_BT.device)
        self.old_BS1 = (places < before_B[:, None])[..., None]
        given = dict(inputs)
        for name, value in inputs.items():
            if isinstance(value, Tensor) and value.shape[:2] == (B, T):
                self.inputs[name] = self._put(self.inputs.get(name), value)
                given[name] = self.inputs[name][:, : self.room]
        return given

    def elements(self, inputs: Mapping[str, Any], times: Tensor) -> int:
        """How many new elements a row has."""
        sizes = [
            v.shape[1]
            for v in inputs.values()
            if isinstance(v, Tensor) and v.dim() > 1 and len(v) == self.rows
        ]
        return sizes[0] if sizes else times.shape[1]

    def stop(self, layer: int, hidden: Tensor, stop: Stop) -> Tensor:
        """Hand the new elements' activations on, and put the old ones' back in their places."""
        padded = F.pad(hidden, (0, 0, 0, 1))
        changed_BTD = stop(layer, self.new(padded))
        kept = self.hidden.get(layer)
        if kept is not None:
            room = padded.shape[1] - kept.shape[1]
            padded = torch.where(self.old_BS1, F.pad(kept, (0, 0, 0, room)), padded)
        self.hidden[layer] = self._put(padded, changed_BTD)
        return self.hidden[layer][:, :-1]

    def new(self, values: Tensor) -> Tensor:
        """The new elements' part of a tensor with all elements along axis 1."""
        index, rest = self.where_BT.clamp(max=values.shape[1] - 1), values.shape[2:]
        return values.gather(1, index.view(*index.shape, *[1] * len(rest)).expand(-1, -1, *rest))

    def output(self, output: Any) -> Any:
        """The new elements' part of what the module returned."""
        if isinstance(output, Tensor):
            return self.new(output) if output.shape[:2] == (self.rows, self.room) else output
        if isinstance(output, Mapping):
            return type(output)(**{name: self.output(value) for name, value in output.items()})
        if isinstance(output, tuple | list):
            parts = [self.output(value) for value in output]
            return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
        return output

    def reset_rows(self, rows: Tensor) -> None:
        """Forget everything of the given rows."""
        self.count_B[rows] = 0

    def select(self, rows: Tensor) -> ReplayedPast:
        """A copy with the given rows."""
        other = copy(self)
        other.rows, other.count_B = len(rows), self.count_B[rows]
        other.inputs = {name: value[rows] for name, value in self.inputs.items()}
        other.hidden = {layer: value[rows] for layer, value in self.hidden.items()}
        return other

    def put(self, rows: Tensor, other: NoPast) -> None:
        """Put the rows of `other` into `rows`."""
        assert isinstance(other, ReplayedPast)
        self.count_B[rows] = other.count_B
        for name, value in other.inputs.items():
            self.inputs[name] = _put_rows(self.inputs.get(name), rows, value, self.rows)
        for layer, value in other.hidden.items():
            self.hidden[layer] = _put_rows(self.hidden.get(layer), rows, value, self.rows)

    def _put(self, kept_BS: Tensor | None, new_BT: Tensor) -> Tensor:
        """`kept` with one bin more than there are elements, and the new ones in their places."""
        rest = new_BT.shape[2:]
        have = 0 if kept_BS is None else kept_BS.shape[1]
        room = new_BT.new_zeros(self.rows, max(0, self.room + 1 - have), *rest)
        whole = room if kept_BS is None else torch.cat([kept_BS, room], 1)
        index = self.where_BT.view(*self.where_BT.shape, *[1] * len(rest)).expand_as(new_BT)
        return whole.scatter(1, index, new_BT)


def _put_rows(kept_BS: Tensor | None, rows: Tensor, value: Tensor, count: int) -> Tensor:
    have = 0 if kept_BS is None else kept_BS.shape[1]
    longest = max(have, value.shape[1])
    whole = value.new_zeros(count, longest, *value.shape[2:])
    if kept_BS is not None:
        whole[:, :have] = kept_BS
    whole[rows, : value.shape[1]] = value
    return whole

"""What frozen encoders gave, remembered by what they were given: a picture is run once, however often it is drawn.

Letters: R rows of a component, E elements of a row, K activations of a row that differ (one a grafted block), D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.gats.component import Features, Tower
from factotum.gats.model import GATS
from factotum.gats.objective import GATSBatch, encode_present, frozen_encoders

Key = tuple[str, bytes]

PIECE = 16
"""Rows that are run together, always as many: what a row gives must not depend, to the bit, on how many are new."""

MULTIPLE = 16
"""Texts are padded to a multiple of so many ids, for the same reason."""


@dataclass
class Remember:
    """Puts features in place of the inputs of frozen encoders that are not steered; each row is run once.

    For `GATSObjective(encode=Remember(...))`. Rows that no longer fit are run whenever they come.

    Args:
        gigabytes: what may be kept, of all components together.
        dtype: in which activations are kept: bfloat16 halves them and rounds by at most 0.4 %.

    Raises:
        UserError: a bound that is not positive.

    >>> Remember(gigabytes=0)
    Traceback (most recent call last):
    factotum.core.checks.UserError: gigabytes: expected a number above 0, got 0
    """

    gigabytes: float = 2.0
    dtype: torch.dtype = torch.bfloat16
    known: dict[Key, Tensor] = field(default_factory=dict, repr=False)
    kept_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.gigabytes > 0:
            raise UserError(f"gigabytes: expected a number above 0, got {self.gigabytes}")

    def __call__(self, model: GATS, batch: GATSBatch) -> GATSBatch:
        """The batch with features, of the rows that are there."""
        inputs = dict(batch.inputs)
        for name, given in frozen_encoders(model, batch).items():
            times = batch.times[name]
            if not all(isinstance(x, Tensor) for x in given.values()):
                continue
            rows = len(next(iter(given.values())))
            absent = times.isnan().flatten() if times.numel() == rows else times.isnan().all(1)
            there = ~absent if len(absent) == rows else torch.ones(rows, dtype=torch.bool)
            if there.any():
                few = {key: x[there] for key, x in given.items()}
                inputs[name] = self.features(model.towers[name], few).spread(there)
        return encode_present(model, replace(batch, inputs=inputs))

    def features(self, tower: Tower, inputs: Mapping[str, Tensor]) -> Features:
        """What a component gives for some rows, run or remembered."""
        keys = [(tower.name, key) for key in row_keys(inputs)]
        new = {key: row for row, key in enumerate(keys) if key not in self.known}
        fresh = self._run(tower, inputs, new)
        kept = [fresh[key] if key in fresh else self.known[key] for key in keys]
        return _joined(tower, kept, inputs)

    def _run(self, tower: Tower, inputs: Mapping[str, Tensor], new: Mapping[Key, int]) -> dict[Key, Tensor]:
        """What new rows give, texts with those of about their own length."""
        found: dict[Key, Tensor] = {}
        for length, keys in _by_length(inputs, new).items():
            whole = inputs if length is None else {key: _cut(x, length, 1) for key, x in inputs.items()}
            for start in range(0, len(keys), PIECE):
                some = keys[start : start + PIECE]
                rows = [new[key] for key in some]
                rows += rows[:1] * (PIECE - len(rows))
                given = tower.features({key: x[rows] for key, x in whole.items()})
                x_KRED = torch.stack(distinct(tower, given)).detach().to(self.dtype)
                found |= {key: self._keep(key, x_KRED[:, place]) for place, key in enumerate(some)}
        return found

    def _keep(self, key: Key, x_KED: Tensor) -> Tensor:
        size = x_KED.numel() * x_KED.element_size()
        if self.kept_bytes + size <= self.gigabytes * 1e9:
            self.known[key] = x_KED = x_KED.clone()
            self.kept_bytes += size
        return x_KED


def row_keys(inputs: Mapping[str, Tensor]) -> list[bytes]:
    """Of each row a digest of its bytes; of texts without the padding at their end.

    >>> ids, mask = torch.tensor([[5, 0], [5, 7]]), torch.tensor([[1, 0], [1, 1]])
    >>> short, long = row_keys({"input_ids": ids, "attention_mask": mask})
    >>> row_keys({"input_ids": ids[:1, :1], "attention_mask": mask[:1, :1]}) == [short], short == long
    (True, False)
    """
    mask = inputs.get("attention_mask")
    arrays = {key: x.cpu().contiguous().numpy() for key, x in sorted(inputs.items())}
    keys = []
    for row in range(len(next(iter(arrays.values())))):
        digest = hashlib.blake2b(digest_size=16)
        length = None if mask is None else _length(mask[row])
        for array in arrays.values():
            part = array[row] if length is None else array[row][:length]
            digest.update(f"{part.shape}{part.dtype}".encode())
            digest.update(part.tobytes())
        keys.append(digest.digest())
    return keys


def distinct(tower: Tower, given: Features) -> list[Tensor]:
    """One `R E D` for each grafted block, in order; several layers may be grafted to one block."""
    by_block = dict(zip(tower.grafts, given.hidden, strict=True))
    return [by_block[block] for block in sorted(by_block)]


def _by_length(inputs: Mapping[str, Tensor], new: Mapping[Key, int]) -> dict[int | None, list[Key]]:
    """Texts by their own length, rounded up to a multiple of MULTIPLE; other rows together."""
    mask = inputs.get("attention_mask")
    found: dict[int | None, list[Key]] = {}
    for key, row in new.items():
        length = None if mask is None else -(-_length(mask[row]) // MULTIPLE) * MULTIPLE
        found.setdefault(length, []).append(key)
    return found


def _length(mask_E: Tensor) -> int:
    """Up to the last id that is there, at least 1."""
    return int(mask_E.nonzero().max()) + 1 if mask_E.any() else 1


def _joined(tower: Tower, rows: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> Features:
    """Rows of activations as features in the component's own type; texts as long as this batch is."""
    mask = inputs.get("attention_mask")
    elements = rows[0].shape[1] if mask is None else mask.shape[1] - tower.skip
    x_KRED = torch.stack([_cut(x_KED, elements, 1) for x_KED in rows], 1)
    x_KRED = x_KRED.to(next(tower.module.parameters()).dtype)
    blocks = sorted(set(tower.grafts))
    hidden = tuple(x_KRED[blocks.index(block)] for block in tower.grafts)
    return Features(hidden, None, tower.unpadded(inputs, hidden[0]))


def _cut(x: Tensor, length: int, axis: int) -> Tensor:
    """As long as asked along an axis, zeros where it was shorter."""
    x = x.narrow(axis, 0, min(length, x.shape[axis]))
    short = length - x.shape[axis]
    return x if not short else torch.cat([x, x.new_zeros(*x.shape[:axis], short, *x.shape[axis + 1 :])], axis)

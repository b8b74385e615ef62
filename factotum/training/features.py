"""Observations as vectors whose squared distance says how alike two of them are.

Continuous entries are standardised by dimension; discrete ones one-hot, so that the squared distance
is the Hamming distance; text is hashed word counts with a weight that puts another instruction
further off than almost any difference in the rest; images are pooled to at most 16 x 16.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

TEXT_BUCKETS = 256
TEXT_WEIGHT = 32.0
IMAGE_SIZE = 16

Path = tuple[Any, ...]


def leaf_spaces(space: spaces.Space, path: Path = ()) -> list[tuple[Path, spaces.Space]]:
    """The leaves of nested Dict and Tuple spaces with their paths, by sorted key.

    >>> [path for path, _ in leaf_spaces(spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Discrete(2)}))]
    [('a',), ('b',)]
    """
    if isinstance(space, spaces.Dict):
        return [leaf for key in sorted(space) for leaf in leaf_spaces(space[key], (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [leaf for key, part in enumerate(space) for leaf in leaf_spaces(part, (*path, key))]
    return [(path, space)]


def at(tree: Any, path: Path) -> Any:
    """The part of nested containers that a path leads to."""
    for key in path:
        tree = tree[key]
    return tree


@dataclass
class _Part:
    """One leaf: `raw` makes rows of numbers; `fit` on the demonstrations says how to scale them."""

    path: Path
    raw: Callable[[Sequence[Any]], np.ndarray]
    weight: float = 1.0
    kind: str = "plain"
    fitted: dict[str, np.ndarray] = field(default_factory=dict)

    def fit(self, rows: np.ndarray) -> np.ndarray:
        """Learn from the demonstrations' rows; their features (N, F).

        Columns that never vary are left out: they add the same to every distance.
        """
        if self.kind == "one-hot":
            used = [np.unique(column) for column in rows.T]
            pairs = [(slot, value) for slot, values in enumerate(used) if len(values) > 1 for value in values]
            self.fitted = {"pairs": np.array(pairs, np.int64).reshape(-1, 2)}
        else:
            self.fitted = {"columns": np.flatnonzero(rows.min(0) != rows.max(0))}
            if self.kind == "standardised":
                kept = rows[:, self.fitted["columns"]].astype(np.float64)
                self.fitted |= {"mean": kept.mean(0), "std": kept.std(0)}
        return self(rows)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        if self.kind == "one-hot":
            slots, values = self.fitted["pairs"].T
            return (rows[:, slots] == values).astype(np.float32) * np.float32(np.sqrt(0.5))
        kept = rows[:, self.fitted["columns"]]
        if self.kind == "standardised":
            kept = (kept - self.fitted["mean"]) / self.fitted["std"]
        return np.asarray(kept * self.weight, np.float32)


def _part(path: Path, space: spaces.Space) -> _Part:
    if isinstance(space, spaces.Text):
        return _Part(path, _word_counts, TEXT_WEIGHT)
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        return _Part(path, _pooled)
    if isinstance(space, spaces.Box):
        return _Part(path, lambda values: _flat(values, np.float32), kind="standardised")
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return _Part(path, lambda values: _flat(values, np.int16), kind="one-hot")
    raise ValueError(f"observation {'/'.join(map(str, path))}: no features for {space}")


def _flat(values: Sequence[Any], dtype: Any) -> np.ndarray:
    array = np.asarray(values)
    return array.reshape(len(array), -1).astype(dtype)


def _word_counts(values: Sequence[str]) -> np.ndarray:
    """(N, TEXT_BUCKETS) counts; a text that repeats is counted once."""
    seen: dict[str, np.ndarray] = {}
    for text in values:
        if text not in seen:
            buckets = [zlib.crc32(word.encode()) % TEXT_BUCKETS for word in text.lower().split()]
            seen[text] = np.bincount(buckets, minlength=TEXT_BUCKETS).astype(np.uint8)
    return np.stack([seen[text] for text in values])


def _pooled(values: Sequence[Any], block: int = 256) -> np.ndarray:
    """(N, height * width * channels) of 0 to 1, average-pooled to at most IMAGE_SIZE each way."""
    return np.concatenate([_pool(np.asarray(values[i : i + block])) for i in range(0, len(values), block)])


def _pool(images: np.ndarray) -> np.ndarray:
    size = (min(IMAGE_SIZE, images.shape[1]), min(IMAGE_SIZE, images.shape[2]))
    planes = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32))
    pooled = torch.nn.functional.adaptive_avg_pool2d(planes, size) / 255
    return pooled.numpy().reshape(len(images), -1)


class ObservationFeatures:
    """Features of the observations of one task, fitted to its demonstrations.

    Args:
        space: the observation space.

    >>> features = ObservationFeatures(spaces.Dict({"a": spaces.Discrete(3)}))
    >>> stored = features.fit([{"a": np.array([0, 2, 2])}])
    >>> query = features([{"a": 2}])
    >>> np.round(((stored - query) ** 2).sum(1), 3).tolist()
    [1.0, 0.0, 0.0]
    """

    def __init__(self, space: spaces.Space) -> None:
        self._parts = [_part(path, leaf) for path, leaf in leaf_spaces(space)]

    def fit(self, trees: Sequence[Any]) -> np.ndarray:
        """Learn the scales from stacked observations; their features (N, F) float32.

        Args:
            trees: observation trees whose leaves have a leading time axis (Text: lists of str).
        """
        matrices = []
        for part in self._parts:
            matrices.append(part.fit(np.concatenate([part.raw(at(tree, part.path)) for tree in trees])))
        return np.concatenate(matrices, axis=1)

    def __call__(self, observations: Sequence[Any]) -> np.ndarray:
        """Features (B, F) of single observations."""
        rows = [part(part.raw([at(item, part.path) for item in observations])) for part in self._parts]
        return np.concatenate(rows, axis=1)

"""Leaves of a timestep side by side: what encoding gives, as columns over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from factotum.gato.batch import ABSENT
from factotum.gato.tokens import Tokens


def step_columns(
    tokens: Sequence[Tokens],
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray, np.ndarray, list[tuple[str, int]]]:
    """Text ids, images, discrete ids, continuous numbers (each `N n`), and the order of the tensors."""
    count = len(tokens[0].ids) if tokens else 0
    empty = np.zeros((count, 0))
    text = [leaf.ids for leaf in tokens if leaf.kind == "text"]
    images = [leaf.values for leaf in tokens if leaf.kind == "image" and leaf.values is not None]
    discrete = [leaf.ids for leaf in tokens if leaf.kind == "discrete"]
    continuous = [leaf.values for leaf in tokens if leaf.kind == "continuous" and leaf.values is not None]
    order: list[tuple[str, int]] = [
        (leaf.kind, leaf.ids.shape[1]) for leaf in tokens if leaf.kind in ("discrete", "continuous")
    ]
    return (
        np.concatenate([empty.astype(np.int64), *text], -1),
        images,
        np.concatenate([empty.astype(np.int64), *discrete], -1),
        np.concatenate([empty.astype(np.float32), *continuous], -1),
        order,
    )


def first_steps(space: spaces.Space, values: Any, steps: int) -> Any:
    """The first `steps` of values with a leading axis of time."""
    if isinstance(space, spaces.Dict):
        return {key: first_steps(space[key], values[key], steps) for key in space}
    if isinstance(space, spaces.Tuple):
        return tuple(first_steps(child, values[k], steps) for k, child in enumerate(space))
    return values[:steps]


def merge_steps(coded: Sequence[Sequence[Tokens]]) -> list[Tokens]:
    """Leaves of B single steps as leaves of B steps; text is padded."""
    merged = []
    for leaf in zip(*coded, strict=True):
        width = max(tokens.ids.shape[1] for tokens in leaf)
        ids = np.full((len(leaf), width), ABSENT, np.int64)
        for row, tokens in enumerate(leaf):
            ids[row, : tokens.ids.shape[1]] = tokens.ids[0]
        values = None if leaf[0].values is None else np.concatenate([tokens.values for tokens in leaf])
        merged.append(Tokens(leaf[0].kind, ids, values))
    return merged

"""Nested dictionaries, tuples and lists of leaves; dictionaries are walked by sorted key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

Tree = Any


def tree_map(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Apply `function` to corresponding leaves.

    >>> tree_map(lambda x, y: x + y, {"b": 1, "a": (2, 3)}, {"b": 10, "a": (20, 30)})
    {'a': (22, 33), 'b': 11}
    """
    if isinstance(tree, dict):
        return {key: tree_map(function, tree[key], *(other[key] for other in rest)) for key in sorted(tree)}
    if isinstance(tree, (tuple, list)):
        parts = [tree_map(function, *parts) for parts in zip(tree, *rest, strict=True)]
        return tuple(parts) if isinstance(tree, tuple) else parts
    return function(tree, *rest)


def tree_leaves(tree: Tree) -> list[Any]:
    """The leaves in order.

    >>> tree_leaves({"b": 1, "a": (2, [3])})
    [2, 3, 1]
    """
    return [leaf for _, leaf in tree_items(tree)]


def tree_items(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves with their paths.

    >>> list(tree_items({"b": 1, "a": (2, 3)}))
    [('a/0', 2), ('a/1', 3), ('b', 1)]
    """
    if isinstance(tree, dict):
        children = [(key, tree[key]) for key in sorted(tree)]
    elif isinstance(tree, (tuple, list)):
        children = [(str(index), child) for index, child in enumerate(tree)]
    else:
        yield prefix, tree
        return
    for key, child in children:
        yield from tree_items(child, f"{prefix}/{key}" if prefix else str(key))


def tree_stack(trees: Sequence[Tree]) -> Tree:
    """Stack trees of equal structure along a new first axis (tensors stay tensors).

    >>> tree_stack([{"a": 1.0}, {"a": 2.0}])["a"].tolist()
    [1.0, 2.0]
    """
    if not trees:
        raise ValueError("expected at least one tree to stack, got none")
    return tree_map(lambda *leaves: _stack(leaves), *trees)


def _stack(leaves: Sequence[Any]) -> Any:
    if leaves[0] is None:
        return None
    return torch.stack(list(leaves)) if torch.is_tensor(leaves[0]) else np.stack(leaves)


def tree_index(tree: Tree, index: Any) -> Tree:
    """Index every leaf.

    >>> tree_index({"a": np.array([10, 20]), "b": (np.array([1, 2]),)}, 1)
    {'a': np.int64(20), 'b': (np.int64(2),)}
    """
    return tree_map(lambda leaf: leaf[index], tree)

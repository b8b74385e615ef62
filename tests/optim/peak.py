"""The most bytes that tensors made within a block held at one time."""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Counts storages that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.watched: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)
        }
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf) and leaf.untyped_storage()._cdata not in known:
                self._watch(leaf.untyped_storage())
        return result

    def _watch(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.watched:
            return

        def gone(_):
            del self.watched[key]
            self.now -= size

        self.watched[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)

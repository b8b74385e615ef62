"""What a joined model attends to: the weights of each GATS layer, for reports.

What it does not know: what components read, pictures. Letters: B batch, H heads, T elements that attend, S elements
attended to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from factotum.gats.attend import GATSLayer
from factotum.gats.model import GATS, Inputs


@torch.no_grad()
def attention_weights(
    model: GATS, inputs: Inputs, times: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None
) -> list[dict[str, Tensor]]:
    """For each GATS layer and each component, how much every attending element looks at each of its elements.

    Args:
        inputs, times, present: as in `GATS.forward`.

    Returns:
        For each layer, by component, `B T S`: mean over heads; over all components they sum to 1 for an element
        that sees anything, else to 0. T are the elements of the steered components in order.

    >>> from torch import nn
    >>> from factotum.gats import Component
    >>> def encoder(): return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 2)
    >>> model = GATS({"eyes": Component(encoder(), window=4, bidirectional=True),
    ...     "hands": Component(encoder(), window=2, bidirectional=True, steered=True)}, layers=2, width=16, heads=2)
    >>> given = {"eyes": {"src": torch.randn(3, 4, 8)}, "hands": {"src": torch.randn(3, 2, 8)}}
    >>> first, _ = attention_weights(model, given, {"eyes": torch.zeros(3, 4), "hands": torch.ones(3, 2)})
    >>> first["eyes"].shape, round((first["eyes"].sum(-1) + first["hands"].sum(-1))[0, 0].item(), 4)
    (torch.Size([3, 2, 4]), 1.0)
    """
    was = model.training
    try:
        with ExitStack() as stack:
            layers = [layer for layer in model.layers if isinstance(layer, GATSLayer)]
            found = [stack.enter_context(_watched(layer)) for layer in layers]
            model.eval()(inputs, times, present)
    finally:
        model.train(was)
    return found


@contextmanager
def _watched(layer: GATSLayer) -> Iterator[dict[str, Tensor]]:
    """Weights of one layer's attention, filled in while it runs inside the block; the layer is as before after it."""
    found: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    plain = layer.attend

    def take_sizes(_: Any, given: tuple[Any, ...]) -> None:
        sizes.update({name: x_BSD.shape[1] for name, x_BSD in given[0].items()})

    def attend(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, mask_B1TS: Tensor) -> Tensor:
        scores = q_BHTK.float() @ k_BHSK.float().transpose(-1, -2) / q_BHTK.shape[-1] ** 0.5
        weights = scores.masked_fill(~mask_B1TS, float("-inf")).softmax(-1).nan_to_num(0.0).mean(1)
        found.update(zip(sizes, weights.split(list(sizes.values()), -1), strict=True))
        return plain(q_BHTK, k_BHSK, v_BHSK, mask_B1TS)

    handle = layer.register_forward_pre_hook(take_sizes)
    layer.__dict__["attend"] = attend
    try:
        yield found
    finally:
        handle.remove()
        del layer.__dict__["attend"]

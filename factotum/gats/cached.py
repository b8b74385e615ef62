"""Keys and values of a decoder's own attention, handed to it as its `past_key_values`.

Rows count their own elements, so a batch may hold rows of different rates, and the cache may be bounded.

What it does not know: what else there is. Letters: B rows, T new elements, S keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.gats.past import NoPast
from factotum.gats.ring import Arrival, Ring

POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding")
"""What learned absolute positions are called."""

ATTENTION_KINDS = ("full_attention", "sliding_attention")


class KeysValues:
    """A `Ring` as `past_key_values`: each attention layer hands its new keys over and gets all it can see."""

    is_compileable = False

    def __init__(self, ring: Ring, arrival: Arrival, seen: int) -> None:
        self.ring, self.arrival, self.seen = ring, arrival, seen
        self.stored: set[int] = set()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep and return, as the host's caches do; a layer's second call is cross-attention, whose keys are whole."""
        if layer_idx in self.stored:
            return key_states, value_states
        self.stored.add(layer_idx)
        return self.ring.store(layer_idx, self.arrival, key_states, value_states)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Elements before this step; read by modules that take no `position_ids`."""
        return self.seen


class CachedPast(NoPast):
    """Keys and values of a causal component's own attention.

    Args:
        name: of the component, for errors.
        module: whose forward takes `past_key_values`.
        rows: of the batch.
        context: own elements that an element sees, itself included; None for all (or for what the module's
            configuration says).
    """

    def __init__(self, name: str, module: nn.Module, rows: int, context: int | None) -> None:
        self.name, self.parameters = name, parameters_of(module)
        self.prefix = "decoder_" if "decoder_input_ids" in self.parameters else ""
        example = next(module.parameters())
        self.dtype, self.seen = example.dtype, 0
        self.positions = learned_positions(module, self.prefix)
        self.windows = attention_windows(name, module, context)
        bounds = list(self.windows.values())
        size = None if None in bounds else max(bound for bound in bounds if bound is not None)
        self.ring = Ring.empty(rows, size, example.device)

    def prepare(self, inputs: Mapping[str, Any], valid_BT: Tensor) -> dict[str, Any]:
        """The keyword arguments of a run over the new elements alone."""
        T = valid_BT.shape[1]
        self._check_positions(valid_BT)
        arrival = self.ring.arrive(valid_BT, joined=T > 1)
        given = dict(inputs)
        given["past_key_values"] = KeysValues(self.ring, arrival, self.seen)
        if "use_cache" in self.parameters:
            given["use_cache"] = True
        if f"{self.prefix}position_ids" in self.parameters:
            given.setdefault(f"{self.prefix}position_ids", arrival.index_BT.clamp(min=0))
        elif not bool((self.ring.count_B == self.seen + T).all()):
            raise UserError(
                f"component {self.name!r}: its forward takes no position_ids: expected rows of one length"
            )
        masks = {kind: self._mask(arrival, window) for kind, window in self.windows.items()}
        given[f"{self.prefix}attention_mask"] = masks if len(masks) > 1 else next(iter(masks.values()))
        self.seen += T
        return given

    def elements(self, inputs: Mapping[str, Any], times: Tensor) -> int:
        """How many new elements a row has."""
        for key in ("input_ids", "inputs_embeds"):
            if isinstance(inputs.get(f"{self.prefix}{key}"), Tensor):
                return inputs[f"{self.prefix}{key}"].shape[1]
        return times.shape[1]

    def reset_rows(self, rows: Tensor) -> None:
        """Forget everything of the given rows."""
        self.ring.reset_rows(rows)

    def select(self, rows: Tensor) -> CachedPast:
        """A copy with the given rows."""
        other = copy(self)
        other.ring = self.ring.select(rows)
        return other

    def put(self, rows: Tensor, other: NoPast) -> None:
        """Put the rows of `other` into `rows`."""
        assert isinstance(other, CachedPast)
        self.ring.put(rows, other.ring)
        self.seen = max(self.seen, other.seen)

    def _check_positions(self, valid_BT: Tensor) -> None:
        if self.positions is None or self.seen + valid_BT.shape[1] <= self.positions:
            return
        longest = int((self.ring.count_B + valid_BT.sum(1)).max())
        if longest > self.positions:
            raise UserError(
                f"component {self.name!r}: it has {self.positions} learned positions, got element {longest} of a row: "
                "begin the row anew, or take a component with relative positions"
            )

    def _mask(self, arrival: Arrival, window: int | None) -> Tensor:
        """Additive, `B 1 T S`: the form that both of the host's usual attentions take."""
        back_BTS = arrival.index_BT[:, :, None] - arrival.key_index_BS[:, None, :]
        seen = (back_BTS >= 0) & (arrival.key_index_BS >= 0)[:, None]
        if window is not None:
            seen = seen & (back_BTS < window)
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=seen.device)
        return mask.masked_fill(~seen, torch.finfo(self.dtype).min)[:, None]


def parameters_of(module: nn.Module) -> set[str]:
    """Names of the keyword arguments that a module's forward takes."""
    return set(inspect.signature(module.forward).parameters)


def learned_positions(module: nn.Module, prefix: str) -> int | None:
    """How many positions a module has a table for; None where it needs none."""
    found = [
        part.num_embeddings
        for path, part in module.named_modules()
        if isinstance(part, nn.Embedding) and path.rpartition(".")[2] in POSITION_TABLES
        if not prefix or f".{path}".count(f".{prefix[:-1]}.")
    ]
    return min(found, default=None)


def attention_windows(name: str, module: nn.Module, context: int | None) -> dict[str, int | None]:
    """How many own elements each kind of attention layer sees; one kind for most modules.

    Raises:
        UserError: layers that keep another state than keys and values.
    """
    config = getattr(module, "config", None)
    sliding = getattr(config, "sliding_window", None)
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or ()))
    if not kinds:
        return {"full_attention": _least(context, sliding)}
    unknown_kinds = [kind for kind in kinds if kind not in ATTENTION_KINDS]
    if unknown_kinds:
        raise UserError(
            f"component {name!r}: incremental decoding knows {' and '.join(ATTENTION_KINDS)}, this model has layers "
            f"of kind {unknown_kinds[0]!r}"
        )
    return {kind: _least(context, sliding if kind == "sliding_attention" else None) for kind in kinds}


def _least(*bounds: int | None) -> int | None:
    return min((bound for bound in bounds if bound is not None), default=None)

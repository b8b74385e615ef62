"""What one component remembers of its own elements while it is run piece by piece.

Three kinds, found by what the module is: `NoPast` here, for encoders: an arrival is whole, so nothing is remembered and
each runs once; `factotum.gats.cached` for decoders of transformers, and any module that keeps to their protocol of
caches; `factotum.gats.replay` for any other causal module.

What they do not know: the other components, GATS layers, time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from factotum.gats.taps import Stop


@runtime_checkable
class Past(Protocol):
    """What `GATSDecoder` asks of each kind."""

    def prepare(self, inputs: Mapping[str, Any], valid_BT: Tensor) -> dict[str, Any]:
        """The keyword arguments of the component's forward in this step."""

    def elements(self, inputs: Mapping[str, Any], times: Tensor) -> int:
        """How many new elements a row has."""

    def stop(self, layer: int, hidden: Tensor, stop: Stop) -> Tensor:
        """Hand the activations of new elements to `stop`; what the component goes on with."""

    def new(self, values: Tensor) -> Tensor:
        """The new elements' part of activations."""

    def output(self, output: Any) -> Any:
        """The new elements' part of what the module returned."""

    def reset_rows(self, rows: Tensor) -> None:
        """Forget everything of the given rows."""

    def select(self, rows: Tensor) -> Past:
        """A copy with the given rows."""

    def put(self, rows: Tensor, other: Any) -> None:
        """Put the rows of `other`, of the same kind, into `rows`."""


class NoPast:
    """An encoder remembers nothing: what arrives is whole."""

    def prepare(self, inputs: Mapping[str, Any], valid_BT: Tensor) -> dict[str, Any]:
        """As they are."""
        return dict(inputs)

    def elements(self, inputs: Mapping[str, Any], times: Tensor) -> int:
        """As many as there are times."""
        return times.shape[1]

    def stop(self, layer: int, hidden: Tensor, stop: Stop) -> Tensor:
        """All elements are new."""
        return stop(layer, hidden)

    def new(self, values: Tensor) -> Tensor:
        """All elements are new."""
        return values

    def output(self, output: Any) -> Any:
        """All elements are new."""
        return output

    def reset_rows(self, rows: Tensor) -> None:
        """Nothing to forget."""

    def select(self, rows: Tensor) -> NoPast:
        """Nothing to copy."""
        return self

    def put(self, rows: Tensor, other: NoPast) -> None:
        """Nothing to put."""

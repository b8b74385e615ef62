"""A component: any module with a list of blocks, and how its activations become elements of a sequence.

`Component` is what the user says; `Tower` is what was found: blocks, width, grafts.
What they do not know: other components, attention.

Letters: B batch, R rows of the component's own batch (R / B for each batch element: one for a text, one a frame),
P positions of a row, E elements of a row (its positions without class tokens), S = E R / B elements of a batch
element, D width of the component.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.gats.discovery import find_bidirectional, find_blocks, find_skip, find_width
from factotum.gats.taps import Stop, grafts, tapped


@dataclass(frozen=True, eq=False)
class Component:
    """A network to be joined to others.

    Args:
        module: any module with a list of blocks; it is used as it is.
        window: N_m, how many of its most recent elements others (and itself) attend to; 0 only where it is
            steered: it then reads and is not read.
        frozen: its parameters get `requires_grad=False` and it stays in evaluation mode.
        steered: what is attended to enters its residual stream; otherwise it is run once, by itself.
        blocks: dotted name of its list of blocks, where it is not found by itself.
        width: of its residual stream, where it is not found by itself.
        bidirectional: whether elements of one row see later ones inside the component (encoders); such a row
            arrives at one time. Where it is not found by itself.
        skip: positions at the start of a row that are not elements (class token, registers); found by itself.
        layout: what the axes of a block's output are: B rows, D width, any other letter positions
            ("TBD" has time first, "BDHW" is a feature map).
        source: where its weights come from, kept for the reader of a saved model.

    >>> block = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    >>> Component(nn.TransformerEncoder(block, 2), window=4, bidirectional=True).frozen
    True
    """

    module: nn.Module
    window: int | None = None
    frozen: bool = True
    steered: bool = False
    blocks: str | None = None
    width: int | None = None
    bidirectional: bool | None = None
    skip: int | None = None
    layout: str = "BTD"
    source: str | None = None


@dataclass
class Features:
    """What an unsteered component gave: its activations at each GATS layer, `R E D`, and its output object.

    They can be kept and passed in place of the component's inputs. Layers grafted to one block share a tensor.
    `unpadded_RE` says which elements are there, where an attention mask did.

    >>> features = Features((torch.zeros(4, 3, 8),) * 2)
    >>> len(features.rows(torch.tensor([2, 3])).hidden[0]), features.output
    (2, None)
    """

    hidden: tuple[Tensor, ...]
    output: Any = None
    unpadded_RE: Tensor | None = None

    def rows(self, rows: Tensor | slice) -> Features:
        """Some rows; without the output object."""
        return self._map(lambda x: x[rows])

    def spread(self, there: Tensor) -> Features:
        """As many rows as `there` has entries: these where it is true, zeros elsewhere.

        >>> Features((torch.ones(1, 1, 1),)).spread(torch.tensor([False, True])).hidden[0].flatten()
        tensor([0., 1.])
        """

        def place(x: Tensor) -> Tensor:
            whole = x.new_zeros(len(there), *x.shape[1:])
            whole[there] = x
            return whole

        return self._map(place)

    def to(self, *args: Any, **options: Any) -> Features:
        """On another device or in another type; without the output object."""
        return self._map(lambda x: x.to(*args, **options))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Features:
        done: dict[int, Tensor] = {}
        for x_RED in self.hidden:
            done.setdefault(id(x_RED), change(x_RED))
        mask = self.unpadded_RE
        return Features(
            tuple(done[id(x_RED)] for x_RED in self.hidden),
            None,
            None if mask is None else change(mask).bool(),
        )


class Tower(nn.Module):
    """A component with what was found about it, ready to be run with stops at its grafts.

    >>> block = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    >>> given = Component(nn.TransformerEncoder(block, 4), window=4, bidirectional=True)
    >>> tower = Tower("vision", given, layers=2)
    >>> tower.width, tower.grafts
    (8, (2, 4))

    Raises:
        UserError: blocks, width or direction that cannot be found, no window, a layout without B and D.
    """

    def __init__(self, name: str, component: Component, layers: int, rule: str = "round") -> None:
        super().__init__()
        self.name, self.frozen, self.steered = name, component.frozen, component.steered
        self.window = _window(name, component)
        self.layout, self.source = _layout(name, component.layout), component.source
        path, blocks = find_blocks(name, component.module, component.blocks)
        self.path, self.blocks = path, tuple(blocks)  # a tuple: not registered a second time
        self.width = find_width(name, blocks, component.width)
        self.bidirectional = find_bidirectional(name, component.module, path, blocks, component.bidirectional)
        self.skip = find_skip(component.module, path, component.skip)
        self.grafts = grafts(len(blocks), layers, rule)
        self.module = component.module

    def freeze(self) -> None:
        """Take gradients from a component that is to be frozen, for good, and put it into evaluation mode."""
        if self.frozen:
            self.module.requires_grad_(False).eval()

    @property
    def depth(self) -> int:
        """K_m, how many blocks it has."""
        return len(self.blocks)

    def train(self, mode: bool = True) -> Tower:
        """A frozen component stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def forward(self, inputs: Mapping[str, Any], stop: Stop) -> Any:
        """Run the component; its activations, as elements `R E D`, go through `stop` at each GATS layer.

        Args:
            inputs: keyword arguments of the component's forward.

        Raises:
            UserError: activations of another width or number of axes than expected.
        """

        def on_elements(layer: int, hidden: Tensor) -> Tensor:
            x_RED = self.elements(hidden)
            changed_RED = stop(layer, x_RED)
            return hidden if changed_RED is x_RED else self.restore(hidden, changed_RED)

        call = partial(self.module, **inputs)
        return tapped(self.name, call, self.blocks, self.grafts, on_elements)

    def features(self, inputs: Mapping[str, Any]) -> Features:
        """Run it by itself and keep its activations; without gradients where it is frozen."""
        hidden: list[Tensor] = []
        known: dict[int, Tensor] = {}

        def keep(layer: int, x_RED: Tensor) -> Tensor:
            hidden.append(known.setdefault(self.grafts[layer], x_RED))
            return x_RED

        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            output = self(inputs, keep)
        return Features(tuple(hidden), output, self.unpadded(inputs, hidden[0]))

    def unpadded(self, inputs: Mapping[str, Any], x_RED: Tensor) -> Tensor | None:
        """Which elements of each row are there, `R E`, where a two-dimensional attention mask says it."""
        mask, (R, E, _) = inputs.get("attention_mask"), x_RED.shape
        if not isinstance(mask, Tensor) or tuple(mask.shape) != (R, E + self.skip):
            return None
        return mask[:, self.skip :].bool()

    def elements(self, hidden: Tensor) -> Tensor:
        """A block's output as rows of elements, `R E D`.

        >>> block = nn.TransformerEncoderLayer(8, 2)
        >>> given = Component(nn.TransformerEncoder(block, 1), window=4, bidirectional=True, skip=1, layout="TBD")
        >>> tower = Tower("vision", given, layers=1)
        >>> x = torch.randn(5, 2, 8)
        >>> tower.elements(x).shape, torch.equal(tower.restore(x, tower.elements(x)), x)
        (torch.Size([2, 4, 8]), True)
        """
        if hidden.dim() != len(self.layout):
            raise UserError(
                f"component {self.name!r}: expected activations with axes {self.layout}, "
                f"got shape {tuple(hidden.shape)}"
            )
        x = hidden.permute(self._order())
        if x.shape[-1] != self.width:
            raise UserError(
                f"component {self.name!r}: expected activations of width {self.width} at {self.path}, "
                f"got {x.shape[-1]}: say Component(..., width={x.shape[-1]})"
            )
        x_RPD = x[:, None] if x.dim() == 2 else x.flatten(1, -2)
        return x_RPD[:, self.skip :] if self.skip else x_RPD

    def restore(self, hidden: Tensor, x_RED: Tensor) -> Tensor:
        """Elements put back into a block's output; positions that are no elements stay."""
        x = hidden.permute(self._order())
        x_RPD = x[:, None] if x.dim() == 2 else x.flatten(1, -2)
        changed = torch.cat([x_RPD[:, : self.skip], x_RED], dim=1) if self.skip else x_RED
        order = self._order()
        return changed.reshape(x.shape).permute([order.index(axis) for axis in range(len(order))])

    def _order(self) -> list[int]:
        rows, width = self.layout.index("B"), self.layout.index("D")
        between = [axis for axis in range(len(self.layout)) if axis not in (rows, width)]
        return [rows, *between, width]


def _window(name: str, component: Component) -> int:
    window = component.window
    if window is None or not isinstance(window, int) or isinstance(window, bool) or window < 0:
        raise UserError(f"component {name!r}: expected a window, Component(..., window=N), got {window!r}")
    if window == 0 and not component.steered:
        raise UserError(
            f"component {name!r}: a window of 0 and not steered: it would neither be read nor changed"
        )
    return window


def _layout(name: str, layout: str) -> str:
    if layout.count("B") != 1 or layout.count("D") != 1 or len(set(layout)) != len(layout):
        raise UserError(
            f"component {name!r}: layout: expected different letters with B (rows) and D (width), got {layout!r}"
        )
    return layout

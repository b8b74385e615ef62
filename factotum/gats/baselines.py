"""What GATS is compared with, over the same components, data, training and decoding: only the joining part differs.

`CrossAttention` is Flamingo's, one way and from the last layer; `LateFusion` joins once, behind the last block; `Alone`
joins nothing. `fine_tuned` trains the components themselves; `at_parameters` makes any of them as large as another.

Letters: B batch, T elements that attend, S elements attended to, D width of a component, C common width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from factotum.core.checks import UserError, unknown
from factotum.gats.attend import GATSLayer
from factotum.gats.component import Component
from factotum.gats.config import GATSConfig
from factotum.gats.model import GATS
from factotum.nn.blocks import GatedFeedForward


class GatedBlock(nn.Module):
    r"""$x_1 = x + \tanh(\alpha)\, W a$, $x' = x_1 + \tanh(\beta)\, \mathrm{FF}(\mathrm{LN}(x_1))$; gates begin at 0.

    >>> block = GatedBlock(width=8, config=GATSConfig(width=16))
    >>> x = torch.randn(1, 3, 8)
    >>> torch.equal(block(x, torch.randn(1, 3, 16)), x)
    True

    Source: Flamingo (arXiv 2204.14198), section 2.2 and figure 4.
    """

    def __init__(self, width: int, config: GATSConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, width, bias=False)
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.norm = nn.LayerNorm(width)
        hidden = max(2, config.hidden)
        self.feed_forward = GatedFeedForward(width, hidden)
        self.feed_forward_gate = nn.Parameter(torch.zeros(()))

    def forward(self, x_BTD: Tensor, a_BTC: Tensor, present_BT: Tensor | None = None) -> Tensor:
        """Activations that the component goes on with; absent elements stay."""
        x = x_BTD.to(a_BTC.dtype) + self.attention_gate.tanh() * self.up(a_BTC)
        x = x + self.feed_forward_gate.tanh() * self.feed_forward(self.norm(x))
        if present_BT is not None:
            x = torch.where(present_BT[..., None], x, x_BTD.to(x.dtype))
        return x.to(x_BTD.dtype)


class GatedLayer(GATSLayer):
    """A gated cross-attention layer: steered components ask, the others answer; updates in the component's width."""

    def __init__(self, widths: Mapping[str, int], steered: list[str], config: GATSConfig) -> None:
        super().__init__(widths, steered, replace(config, feed_forward=0.0))
        self.scatters = nn.ModuleDict({name: GatedBlock(widths[name], config) for name in steered})


class CrossAttention(GATS):
    """Gated cross-attention as in Flamingo (arXiv 2204.14198), over the components of a GATS.

    Steered components read the *last* activations of those that are not, at the depths where GATS layers would stand,
    through gates that begin at zero; they read neither themselves nor one another. What is visible is what GATS sees:
    the last N_m elements that have arrived.

    Differs from Flamingo: which resamples each image to 64 elements and sees the last image alone; here the window says
    so. Attention has the common width, and so has the hidden layer of the feed-forward part.
    """

    def __init__(
        self, components: Mapping[str, Component], config: GATSConfig | None = None, **choices: Any
    ) -> None:
        super().__init__(components, config, **choices)
        if len(self.steered) == len(components):
            raise UserError(
                "expected a component that is not steered: cross-attention would have nothing to read"
            )
        widths = {name: tower.width for name, tower in self.towers.items()}
        for tower in self.towers.values():
            if tower.steered:
                tower.window = 0
            else:
                tower.grafts = (tower.depth,) * self.config.layers
        self.layers = nn.ModuleList(
            GatedLayer(widths, self.steered, self.config) for _ in range(self.config.layers)
        )


class LateFusion(GATS):
    """The components run apart and are joined once, behind their last blocks, by one wide layer.

    A GATS of one layer: attention over the last N_m elements of every component, and a feed-forward part, before the
    component's final normalisation and head.
    """

    def __init__(
        self, components: Mapping[str, Component], config: GATSConfig | None = None, **choices: Any
    ) -> None:
        config = replace(config or GATSConfig(**choices), layers=1)
        super().__init__(components, config)


class SilentLayer(nn.Module):
    """Where a GATS layer would stand: it reads nothing and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.scatters = nn.ModuleDict()

    def forward(
        self, x: dict[str, Tensor], angles: Any = None, mask: Any = None, present: Any = None
    ) -> dict[str, Tensor]:
        """Activations as they are."""
        return dict(x)

    def enter(self, name: str, x_BSD: Tensor, present_BS: Tensor | None = None) -> Tensor:
        """Nothing, in a width of one."""
        return x_BSD.new_zeros(*x_BSD.shape[:2], 1)

    def queries(self, u_BT1: Tensor, angles: Tensor | None) -> Tensor:
        """Nothing."""
        return u_BT1[:, None]

    def keys_values(self, u_BS1: Tensor, angles: Tensor | None) -> tuple[Tensor, Tensor]:
        """Nothing."""
        return u_BS1[:, None], u_BS1[:, None]

    def attend(self, q_B1T1: Tensor, k_B1S1: Tensor, v_B1S1: Tensor, mask: Tensor) -> Tensor:
        """Nothing."""
        return q_B1T1[:, 0]

    def branches(self, u_BT1: Tensor, a_BT1: Tensor) -> Tensor:
        """Nothing."""
        return a_BT1

    def leave(self, name: str, x_BTD: Tensor, y_BT1: Tensor, present_BT: Tensor | None = None) -> Tensor:
        """Activations as they are."""
        return x_BTD


class Alone(GATS):
    """The steered components alone: nothing is joined, and what is trained is what of them is not frozen."""

    def __init__(
        self, components: Mapping[str, Component], config: GATSConfig | None = None, **choices: Any
    ) -> None:
        config = replace(config or GATSConfig(**choices), layers=1)
        super().__init__(components, config)
        self.layers = nn.ModuleList([SilentLayer()])


KINDS: dict[str, type[GATS]] = {
    "gats": GATS,
    "cross-attention": CrossAttention,
    "late-fusion": LateFusion,
    "alone": Alone,
}


def make_joined(kind: str, components: Mapping[str, Component], config: GATSConfig) -> GATS:
    """A model of any kind.

    Raises:
        UserError: an unknown kind, or as its constructor.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    return KINDS[kind](components, config)


def fine_tuned(components: Mapping[str, Component]) -> dict[str, Component]:
    """The same components, all of them trained; their modules' parameters want gradients again.

    >>> found = fine_tuned({"text": Component(nn.Linear(2, 2).requires_grad_(False), window=1)})["text"]
    >>> found.frozen, found.module.weight.requires_grad
    (False, True)
    """
    for component in components.values():
        component.module.requires_grad_(True)
    return {name: replace(component, frozen=False) for name, component in components.items()}


def trained_parameters(model: nn.Module) -> int:
    """How many numbers are trained.

    >>> trained_parameters(nn.Linear(2, 3))
    9
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def at_parameters(
    kind: str, components: Mapping[str, Component], config: GATSConfig, parameters: int
) -> GATSConfig:
    """The configuration, changed in width alone, whose model trains as near as can be to as many parameters.

    Raises:
        UserError: an unknown kind, or `parameters` fewer than at the least width or more than at 8,192 a head.
    """
    unit = 2 * config.heads

    def count(units: int) -> int:
        with torch.random.fork_rng(devices=[]):
            return trained_parameters(make_joined(kind, components, replace(config, width=unit * units)))

    if kind == "alone":
        return config
    low, high = 1, 1
    while count(high) < parameters:
        low, high = high, 2 * high
        if high > 4096:
            raise UserError(f"{kind}: no width reaches {parameters} trained parameters")
    if high == 1 and count(1) > 1.1 * parameters:
        raise UserError(
            f"{kind}: at the least width, {unit}, {count(1)} parameters are trained, more than {parameters}"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < parameters else (low, middle)
    best = min((low, high), key=lambda units: abs(count(units) - parameters))
    return replace(config, width=unit * best)

"""Attend: one GATS layer, a transformer layer in a common width between the blocks of the components.

Its parts can be used one by one, as incremental decoding does: `enter` (normalise and project new elements),
`queries`, `keys_values`, `attend` (given keys, values and a mask), `branches`, `leave` (project back, update).

What it does not know: components, arrival times, where its keys come from.

Letters: B batch, T elements that attend, S elements attended to, D width of a component, C common width,
H heads, K head size, F = K / 2 frequencies.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from factotum.gats.config import GATSConfig
from factotum.gats.scatter import Scatter
from factotum.nn.attention import attend, rotate
from factotum.nn.blocks import GatedFeedForward


class GATSLayer(nn.Module):
    r"""Attention over what was gathered, then a feed-forward part; both enter the components' own streams.

    $u = P_m \mathrm{LN}_m(x)$, $a = W_O\, \mathrm{softmax}(q k^\top / \sqrt{K} + \mathrm{mask})\, v$ with
    $q, k, v = W_Q u, W_K u, W_V u$ over all modalities, $y = a + \mathrm{FF}(\mathrm{LN}(u + a))$,
    $x' = x + W_m y$ (`Scatter`). Modalities that are not steered have $P_m$ and $\mathrm{LN}_m$ alone.

    Args:
        widths: D of each component.
        steered: names of the components that attend and are changed.

    >>> layer = GATSLayer({"text": 8, "action": 6}, ["action"], GATSConfig(width=16, heads=2))
    >>> x = {"text": torch.randn(1, 3, 8), "action": torch.randn(1, 2, 6)}
    >>> positions = {"text": torch.zeros(1, 3), "action": torch.ones(1, 2)}
    >>> angles = {name: layer_angles(where, layer.config) for name, where in positions.items()}
    >>> {name: tuple(changed.shape) for name, changed in layer(x, angles, torch.ones(1, 1, 2, 5).bool()).items()}
    {'action': (1, 2, 6)}

    Differs from the paper: of which only the outline is known; the choices are in docs/gats.md.
    """

    def __init__(self, widths: Mapping[str, int], steered: list[str], config: GATSConfig) -> None:
        super().__init__()
        self.config = config
        C = config.width
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in widths.items()})
        self.down = nn.ModuleDict({name: nn.Linear(width, C) for name, width in widths.items()})
        self.query = nn.Linear(C, C, bias=False)
        self.key_value = nn.Linear(C, 2 * C, bias=False)
        self.output = nn.Linear(C, C, bias=False)
        self.feed_forward = None
        if config.hidden:
            self.feed_forward_norm = nn.LayerNorm(C)
            self.feed_forward = GatedFeedForward(C, config.hidden)
        self.scatters = nn.ModuleDict({name: Scatter(widths[name], config) for name in steered})

    def enter(
        self, name: str, x_BSD: Float[Tensor, "B S D"], present_BS: Bool[Tensor, "B S"] | None = None
    ) -> Float[Tensor, "B S C"]:
        """Normalise a component's activations and project them to the common width; absent ones become zeros."""
        if present_BS is not None:
            x_BSD = x_BSD.masked_fill(~present_BS[..., None], 0.0)
        weight = self.query.weight
        x_BSD = x_BSD if torch.is_autocast_enabled(x_BSD.device.type) else x_BSD.to(weight.dtype)
        return self.down[name](self.norms[name](x_BSD))

    def queries(self, u_BTC: Float[Tensor, "B T C"], angles_B1TF: Tensor | None) -> Float[Tensor, "B H T K"]:
        """Queries of elements that attend, turned by their positions."""
        return self._heads(self.query(u_BTC), angles_B1TF)

    def keys_values(
        self, u_BSC: Float[Tensor, "B S C"], angles_B1SF: Tensor | None
    ) -> tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]:
        """Keys, turned by their positions, and values; what incremental decoding stores."""
        k, v = self.key_value(u_BSC).chunk(2, dim=-1)
        return self._heads(k, angles_B1SF), self._heads(v, None)

    def attend(
        self,
        q_BHTK: Float[Tensor, "B H T K"],
        k_BHSK: Float[Tensor, "B H S K"],
        v_BHSK: Float[Tensor, "B H S K"],
        mask_B1TS: Bool[Tensor, "B 1 T S"],
    ) -> Float[Tensor, "B T C"]:
        """Attend to what the mask allows; zero for an element that sees nothing."""
        some_B1T1 = mask_B1TS.any(-1, keepdim=True)
        y_BHTK = attend(q_BHTK, k_BHSK.to(q_BHTK.dtype), v_BHSK.to(q_BHTK.dtype), mask_B1TS | ~some_B1T1)
        return self.output(y_BHTK.masked_fill(~some_B1T1, 0.0).transpose(1, 2).flatten(2))

    def branches(
        self, u_BTC: Float[Tensor, "B T C"], a_BTC: Float[Tensor, "B T C"]
    ) -> Float[Tensor, "B T C"]:
        """What the layer adds, in the common width: attention, and the feed-forward part that sees both."""
        if self.feed_forward is None:
            return a_BTC
        return a_BTC + self.feed_forward(self.feed_forward_norm(u_BTC + a_BTC))

    def leave(
        self,
        name: str,
        x_BTD: Float[Tensor, "B T D"],
        y_BTC: Float[Tensor, "B T C"],
        present_BT: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Project back to a component's width and update its residual stream."""
        return self.scatters[name](x_BTD, y_BTC, present_BT)

    def forward(
        self,
        x: dict[str, Tensor],
        angles: dict[str, Tensor | None],
        mask_B1TS: Bool[Tensor, "B 1 T S"],
        present: dict[str, Tensor | None] | None = None,
    ) -> dict[str, Tensor]:
        """All elements at once.

        Args:
            x: activations of each component, `B S D`, in the order of the mask's axes.
            angles: rotation of each component's elements, `B 1 S F`.
            mask_B1TS: which elements each steered one sees.
            present: which elements are there; None for all.

        Returns:
            New activations of each steered component in `x`.
        """
        present = present or dict.fromkeys(x)
        u = {name: self.enter(name, x_BSD, present[name]) for name, x_BSD in x.items()}
        stored = [self.keys_values(u_BSC, angles[name]) for name, u_BSC in u.items()]
        steered = [name for name in x if name in self.scatters]
        q = torch.cat([self.queries(u[name], angles[name]) for name in steered], dim=2)
        k, v = (torch.cat(part, dim=2) for part in zip(*stored, strict=True))
        u_BTC = torch.cat([u[name] for name in steered], dim=1)
        y_BTC = self.branches(u_BTC, self.attend(q, k, v, mask_B1TS))
        parts = y_BTC.split([x[name].shape[1] for name in steered], dim=1)
        return {
            name: self.leave(name, x[name], y, present[name]) for name, y in zip(steered, parts, strict=True)
        }

    def _heads(self, x_BSC: Tensor, angles_B1SF: Tensor | None) -> Tensor:
        x_BHSK = x_BSC.unflatten(-1, (self.config.heads, self.config.head_size)).transpose(1, 2)
        return x_BHSK if angles_B1SF is None else rotate(x_BHSK, angles_B1SF)


def layer_angles(position_BS: Float[Tensor, "B S"], config: GATSConfig) -> Float[Tensor, "B 1 S F"] | None:
    r"""Angles $p\, \theta^{-f / F'}$ by which queries and keys are turned (RoPE, arXiv 2104.09864), 0 from F' on.

    F' = `rotary` F. In double precision and reduced to one turn, so that an episode or a clock may be long.

    >>> layer_angles(torch.tensor([[0.0, 1.0]]), GATSConfig(width=8, heads=2))[0, 0, :, 0]
    tensor([0., 1.])
    """
    if config.positions == "none":
        return None
    count = config.head_size // 2
    turned = round(config.rotary * count)
    steps_F = torch.arange(count, dtype=torch.float64, device=position_BS.device)
    frequencies_F = (config.base ** (-steps_F / max(1, turned))) * (steps_F < turned)
    scale = config.time_scale if config.positions == "time" else 1.0
    angles = position_BS.double()[:, None, :, None] * (scale * frequencies_F)
    return angles.remainder(2 * torch.pi).float()

"""Causal self-attention with relative positions, in parallel and stepwise.

What it is: two attentions with one interface, `RelativeAttention` (Transformer-XL) and `RotaryAttention`.
What it does not know: embeddings, blocks, what a position stands for.

Letters: B batch, T query positions, S key positions, D width, H heads, K head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def attend(
    q_BHTK: Float[Tensor, "B H T K"],
    k_BHSK: Float[Tensor, "B H S K"],
    v_BHSK: Float[Tensor, "B H S K"],
    mask_B1TS: Bool[Tensor, "#B 1 T S"] | None,
) -> Float[Tensor, "B H T K"]:
    """Softmax attention by torch's fused kernel, or by its parts where these are faster; without a mask, causal.

    In bf16 on a CPU the fused kernel's backward pass takes about three times as long as that of the parts.
    """
    T, S = q_BHTK.shape[2], k_BHSK.shape[2]
    if q_BHTK.device.type != "cpu" or q_BHTK.dtype != torch.bfloat16 or T * S > 512 * 512:
        return F.scaled_dot_product_attention(
            q_BHTK, k_BHSK, v_BHSK, attn_mask=mask_B1TS, is_causal=mask_B1TS is None
        )
    if mask_B1TS is None:
        mask_B1TS = torch.ones(T, S, dtype=torch.bool, device=q_BHTK.device).tril()[None, None]
    scores = q_BHTK @ (k_BHSK * q_BHTK.shape[-1] ** -0.5).transpose(-1, -2)
    return scores.masked_fill(~mask_B1TS, float("-inf")).softmax(-1) @ v_BHSK


class Attention(nn.Module):
    """What both attentions share: projections, and reading keys from a call or from a cache."""

    def __init__(self, width: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self.query_key_value = nn.Linear(width, 3 * heads * head_size, bias=False)
        self.output = nn.Linear(heads * head_size, width, bias=False)

    def project(self, x_BTD: Tensor) -> list[Tensor]:
        """Queries, keys and values, each `B H T K`."""
        parts = self.query_key_value(x_BTD).chunk(3, dim=-1)
        return [part.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2) for part in parts]

    def forward(
        self,
        x_BTD: Float[Tensor, "B T D"],
        positions_BT: Int[Tensor, "#B T"],
        mask_B1TT: Bool[Tensor, "#B 1 T T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """All positions at once; without a mask, causal."""
        q, k, v = self.keys_values(x_BTD, positions_BT)
        distance_BTT = positions_BT[:, :, None] - positions_BT[:, None, :]
        return self.attend(q, k, v, distance_BTT, mask_B1TT)

    def keys_values(self, x_BTD: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, and the keys and values to be stored."""
        raise NotImplementedError

    def attend(
        self, q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, distance_BTS: Tensor, mask_B1TS: Tensor | None
    ) -> Tensor:
        """Attend to keys at the distances i - j, back at the width; without a mask, causal."""
        raise NotImplementedError

    def merge(self, y_BHTK: Tensor) -> Tensor:
        """Heads back to the width."""
        B, H, T, K = y_BHTK.shape
        return self.output(y_BHTK.transpose(1, 2).reshape(B, T, H * K))


def rotate(
    x_BHTK: Float[Tensor, "B H T K"], angles_B1TF: Float[Tensor, "#B 1 T F"]
) -> Float[Tensor, "B H T K"]:
    """Turn each pair of neighbours (2f, 2f + 1) of a head by its angle, in single precision.

    As complex numbers this is one pass over memory, not seven; a compiler makes one pass of the plain form.

    >>> rotate(torch.tensor([[[[1.0, 0.0]]]]), torch.full((1, 1, 1, 1), torch.pi / 2)).round().abs()
    tensor([[[[0., 1.]]]])
    """
    pairs_BHTF2 = x_BHTK.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        (first, second), (cos, sin) = pairs_BHTF2.unbind(-1), (angles_B1TF.cos(), angles_B1TF.sin())
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    else:
        turns_B1TF = torch.polar(torch.ones_like(angles_B1TF), angles_B1TF)
        turned = torch.view_as_real(torch.view_as_complex(pairs_BHTF2) * turns_B1TF)
    return turned.flatten(-2).to(x_BHTK.dtype)


class RotaryAttention(Attention):
    r"""Attention whose scores depend on i - j by rotating queries and keys (RoPE, arXiv 2104.09864).

    $a_{ij} = (R_i q_i)^\top (R_j k_j) / \sqrt{K}$, so $R_i^\top R_j = R_{j-i}$ makes it relative.

    >>> attention = RotaryAttention(width=8, heads=2, head_size=4)
    >>> attention(torch.randn(1, 3, 8), torch.arange(3)[None]).shape
    torch.Size([1, 3, 8])

    Differs from the paper of Gato: which has Transformer-XL's form (`RelativeAttention`); this one runs on the
    fast attention path.
    """

    def __init__(self, width: int, heads: int, head_size: int, base: float = 10_000.0) -> None:
        super().__init__(width, heads, head_size)
        self.frequencies: Tensor
        frequencies = base ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def keys_values(self, x_BTD: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, and the keys and values to be stored."""
        q, k, v = self.project(x_BTD)
        angles_B1TF = positions_BT[:, None, :, None].float() * self.frequencies
        return rotate(q, angles_B1TF), rotate(k, angles_B1TF), v

    def attend(
        self, q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, distance_BTS: Tensor, mask_B1TS: Tensor | None
    ) -> Tensor:
        """The distances are already in the rotation."""
        return self.merge(attend(q_BHTK, k_BHSK, v_BHSK, mask_B1TS))


class RelativeAttention(Attention):
    r"""Transformer-XL's attention (arXiv 1901.02860, section 3.3), as the published sizes of Gato imply.

    $a_{ij} = [(q_i + u)^\top k_j + (q_i + v)^\top W_R r_{i-j}] / \sqrt{K}$ with sinusoids $r$.

    >>> attention = RelativeAttention(width=8, heads=2, head_size=4)
    >>> attention(torch.randn(1, 3, 8), torch.arange(3)[None]).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int, head_size: int, base: float = 10_000.0) -> None:
        super().__init__(width, heads, head_size)
        self.relative = nn.Linear(width, heads * head_size, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, head_size))
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, head_size))
        self.frequencies: Tensor
        frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def keys_values(self, x_BTD: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, and the keys and values to be stored."""
        q, k, v = self.project(x_BTD)
        return q, k, v

    def attend(
        self, q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, distance_BTS: Tensor, mask_B1TS: Tensor | None
    ) -> Tensor:
        """Distances outside the mask may be anything."""
        mask_BTS = distance_BTS >= 0 if mask_B1TS is None else mask_B1TS[:, 0]
        reachable = distance_BTS.masked_fill(~mask_BTS, 0)
        r_HKW = self._relative_keys(int(reachable.max()) + 1, q_BHTK.dtype)
        by_distance = (q_BHTK + self.position_bias.to(q_BHTK.dtype)) @ r_HKW
        index = reachable[:, None].expand(len(q_BHTK), self.heads, -1, -1)
        scores = (q_BHTK + self.content_bias.to(q_BHTK.dtype)) @ k_BHSK.transpose(-1, -2)
        scores = (scores + by_distance.gather(-1, index)) * self.head_size**-0.5
        weights = scores.masked_fill(~mask_BTS[:, None], float("-inf")).float().softmax(-1)
        return self.merge(weights.to(v_BHSK.dtype) @ v_BHSK)

    def _relative_keys(self, reach: int, dtype: torch.dtype) -> Tensor:
        angles = torch.arange(reach, device=self.frequencies.device)[:, None] * self.frequencies
        r_WD = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return self.relative(r_WD).view(reach, self.heads, self.head_size).permute(1, 2, 0).to(dtype)


ATTENTIONS: dict[str, type[RotaryAttention] | type[RelativeAttention]] = {
    "rotary": RotaryAttention,
    "relative": RelativeAttention,
}

"""Negative log-likelihood of tokens, plain or with ordinal ids spread over their neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def token_loss(
    logits_MV: Float[Tensor, "M V"],
    ids_M: Int[Tensor, " M"],
    *,
    ordinal_start: int | None = None,
    spread: float = 0.0,
) -> Float[Tensor, " M"]:
    r"""Cross-entropy of each token; ids from `ordinal_start` on may spread over neighbouring ids.

    $-\sum_k w_k \log p(x_i + k)$ with $w_k \propto \exp(-k^2 / 2\sigma^2)$, $\sigma$ = `spread` ids (a histogram
    loss with a Gaussian target, arXiv 2403.03950); spread = 0 is the paper of Gato's plain $-\log p(x_i)$.

    >>> round(token_loss(torch.zeros(1, 4), torch.tensor([2])).item(), 4)
    1.3863
    """
    plain = F.cross_entropy(logits_MV.float(), ids_M, reduction="none")
    if spread <= 0.0 or ordinal_start is None:
        return plain
    reach = max(1, round(3 * spread))
    offsets = torch.arange(-reach, reach + 1, device=ids_M.device)
    neighbours = ids_M[:, None] + offsets
    inside = (neighbours >= ordinal_start) & (neighbours < logits_MV.shape[1])
    weights = torch.exp(-0.5 * (offsets / spread) ** 2) * inside
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)
    near = logits_MV.gather(1, neighbours.clamp(0, logits_MV.shape[1] - 1)).float()
    # the normaliser is the same: only the logit that is taken from it differs
    soft = plain + near[:, reach] - (near * weights).sum(-1)
    return torch.where(ids_M >= ordinal_start, soft, plain)

"""What is it trained to do? Masked negative log-likelihood of text and actions (arXiv 2205.06175, section 2.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from factotum.gato.batch import Batch
from factotum.losses.likelihood import token_loss


@dataclass(frozen=True)
class GatoObjective:
    r"""$L = -\sum_b \sum_l m(b, l) \log p_\theta(s_l | s_1, ..., s_{l-1})$, m = 1 on text and logged actions.

    Args:
        continuous_start: first id of the continuous range.
        spread: width in bins by which a continuous target spreads over its neighbours; 0 is the paper's.
        balanced: each task's mean counts by its rows; False is the paper's plain mean over tokens.

    Returns of a call: mean loss, its weight (tokens or rows), metrics: each task's loss.
    """

    continuous_start: int
    spread: float = 0.0
    balanced: bool = True

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss of one batch."""
        logits_MV = model(batch)
        loss_M = token_loss(
            logits_MV, batch.target_ids_M, ordinal_start=self.continuous_start, spread=self.spread
        )
        tasks = len(batch.task_names)
        sums = loss_M.new_zeros(tasks).index_add(0, batch.target_task_M, loss_M)
        counts = torch.bincount(batch.target_task_M, minlength=tasks).clamp(min=1)
        means = sums / counts
        metrics = {f"loss/{name}": means[k].detach() for k, name in enumerate(batch.task_names)}
        if not self.balanced:
            return loss_M.mean(), torch.tensor(float(len(loss_M))), metrics
        rows = torch.tensor(batch.task_rows, dtype=loss_M.dtype, device=loss_M.device)
        return (means * rows).sum() / rows.sum(), rows.sum().cpu(), metrics

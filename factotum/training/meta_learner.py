"""A model with its meta-optimizer and moving average: clipping, one update. Knows neither worlds nor files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.training.checkpoint import latest_checkpoint
from factotum.training.meta_config import MetaConfig
from factotum.training.meta_gradient import trainable
from factotum.training.schedule import learning_rate_at, set_learning_rate


class MetaLearner:
    """What learns.

    Args:
        model: on its device; changed in place.
        config: how to meta-train.

    >>> learner = MetaLearner(nn.Linear(1, 1, bias=False), MetaConfig(steps=2, warmup_steps=0))
    >>> float(learner.update([torch.full((1, 1), 3.0)], step=0)["gradient_norm"])
    3.0
    """

    def __init__(self, model: nn.Module, config: MetaConfig):
        self.model, self.config = model.train().requires_grad_(True), config
        self.parameters = trainable(model)
        self.optimizer = make_meta_optimizer(self.parameters, config)
        self.average = [p.detach().clone() for p in self.parameters] if config.ema_decay else []

    def update(self, gradients: Sequence[Tensor], step: int) -> dict[str, Tensor]:
        """Clip and step.

        Args:
            gradients: one a parameter; changed.
            step: updates made before.

        Returns:
            `gradient_norm` before clipping, `gradient_entries_dropped`.
        """
        norm, bad = clip(gradients, self.config.element_clip, self.config.norm_clip)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        set_learning_rate(self.optimizer, self.learning_rate(step))
        self.optimizer.step()
        if self.average:
            # A short memory early on: the first weights are random.
            decay = min(self.config.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        return {"gradient_norm": norm, "gradient_entries_dropped": bad}

    def learning_rate(self, step: int) -> float:
        """The rate of the update after `step` updates."""
        config = self.config
        return learning_rate_at(
            step,
            steps=config.steps,
            peak=config.learning_rate,
            warmup_steps=config.warmup_steps,
            initial=config.learning_rate / (config.warmup_steps + 1),
            final_ratio=config.final_learning_rate_ratio,
        )

    def require_finite(self, run: Path) -> None:
        """Refuse to save weights that are of no use.

        Raises:
            UserError: naming what is not finite, and the run's newest checkpoint.
        """
        for name, parameter in self._named():
            if not bool(parameter.isfinite().all()):
                kept = latest_checkpoint(run) or "there is none yet"
                raise UserError(
                    f"weights: expected finite ones, got others in {name}; newest checkpoint: {kept}"
                )

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its moving average as weights, where it has one, inside the block alone."""
        raw = [p.detach().clone() for p in self.parameters]
        _copy(self.parameters, self.average or raw)
        try:
            yield self.model
        finally:
            _copy(self.parameters, raw)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside the model, by name."""
        moments = {
            f"optimizer/{name}/{key}": value
            for name, parameter in self._named()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        raw = {f"weights/{name}": parameter.detach() for name, parameter in self._named() if self.average}
        return moments | raw

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave; the model itself (its moving average, if kept) is loaded already."""
        parameters = dict(self._named())
        for path, tensor in tensors.items():
            kind, _, name = path.partition("/")
            if kind == "optimizer":
                name, key = name.rsplit("/", 1)
                place: Any = "cpu" if key == "step" else parameters[name].device
                self.optimizer.state[parameters[name]][key] = tensor.to(place)
            elif kind == "weights":
                parameters[name].data.copy_(tensor)

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]


@torch.no_grad()
def _copy(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def clip(gradients: Sequence[Tensor], element: float, norm: float) -> tuple[Tensor, Tensor]:
    """Entries that are not finite become 0, the rest is clipped element-wise, then by norm; all in place.

    Args:
        gradients: changed.
        element: largest size of an entry, 0 for none.
        norm: largest norm of all together, 0 for none.

    Returns:
        The norm before it was clipped, and how many entries were not finite.

    >>> gradient = torch.tensor([3.0, 4.0, float("nan")])
    >>> norm, bad = clip([gradient], 0.0, 1.0)
    >>> gradient.tolist(), norm.item(), bad.item()
    ([0.6..., 0.8..., 0.0], 5.0, 1)
    """
    bad = torch.stack([gradient.isfinite().logical_not().sum() for gradient in gradients]).sum()
    for gradient in gradients:
        gradient.nan_to_num_(0.0, 0.0, 0.0)
        if element:
            gradient.clamp_(-element, element)
    total = nn.utils.get_total_norm(list(gradients))
    if norm:
        torch._foreach_mul_(list(gradients), float((norm / total.clamp(min=1e-30)).clamp(max=1.0)))
    return total, bad


def make_meta_optimizer(parameters: Sequence[nn.Parameter], config: MetaConfig) -> torch.optim.Optimizer:
    """Adam, or the paper's RMSProp, whose mean square starts at 1.

    >>> type(make_meta_optimizer([nn.Parameter(torch.zeros(2))], MetaConfig(meta_optimizer="rmsprop"))).__name__
    'RMSprop'
    """
    if config.meta_optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.learning_rate, betas=config.betas)
    optimizer = torch.optim.RMSprop(parameters, lr=config.learning_rate, alpha=0.9, eps=1e-20)
    for parameter in parameters:
        optimizer.state[parameter] = {"step": torch.tensor(0.0), "square_avg": torch.ones_like(parameter)}
    return optimizer

"""What is it trained to do? The components' own next-id losses, with a condition hidden now and then for guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.gats.component import Features
from factotum.gats.generate import Scores, logits_of
from factotum.gats.model import GATS
from factotum.losses.likelihood import token_loss

IGNORED = -100
"""Target of an element that is not to be learnt."""


@dataclass
class GATSBatch:
    """What a training step gets.

    Args:
        inputs, times, present: as in `GATS.forward`.
        targets: for each component that learns, the id that each of its elements should say next, `B T`; IGNORED
            where there is none.
    """

    inputs: dict[str, Any]
    times: dict[str, Tensor]
    targets: dict[str, Tensor]
    present: dict[str, Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """How many ids are learnt."""
        return sum(int((target_BT != IGNORED).sum()) for target_BT in self.targets.values())

    def to(self, device: torch.device | str) -> GATSBatch:
        """The batch on a device."""
        return GATSBatch(**{part.name: _moved(getattr(self, part.name), device) for part in fields(self)})


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor | Features):
        return value.to(device)
    return {key: _moved(part, device) for key, part in value.items()} if isinstance(value, dict) else value


def frozen_encoders(model: GATS, batch: GATSBatch) -> dict[str, dict[str, Any]]:
    """Inputs of the components whose features depend on nothing else: frozen encoders that are not steered."""
    alone = {
        name
        for name, tower in model.towers.items()
        if tower.frozen and tower.bidirectional and not tower.steered
    }
    return {
        name: given
        for name, given in batch.inputs.items()
        if name in alone and not isinstance(given, Features)
    }


def encode_present(model: GATS, batch: GATSBatch) -> GATSBatch:
    """The same batch, with features of frozen encoders in place of inputs, where rows of them are absent.

    Windows of different lengths leave many frames empty; only those that are there are run.
    """
    inputs = dict(batch.inputs)
    for name, given in frozen_encoders(model, batch).items():
        there = ~batch.times[name].isnan().flatten()
        rows = {len(x) for x in given.values() if isinstance(x, Tensor)}
        if rows == {len(there)} and bool(there.any()) and not bool(there.all()):
            few = {key: x[there] if isinstance(x, Tensor) else x for key, x in given.items()}
            inputs[name] = model.encode({name: few})[name].spread(there)
    return replace(batch, inputs=inputs)


Encode = Callable[[GATS, GATSBatch], GATSBatch]


@dataclass(frozen=True)
class GATSObjective:
    r"""$L = \sum_m w_m\, \mathrm{mean}_t\left(-\log p_m(y_t \mid x_{\le t})\right)$ over the steered components m.

    Args:
        weights: w_m; 1 where none is given.
        hidden: for each condition of guidance, the share of rows that are trained without it.
        scores: reads a component's output.
        encode: puts features of frozen encoders in place of their inputs: of all rows that are there, each time
            (`encode_present`), or remembered (`factotum.gats.remember.Remember`).

    Raises:
        UserError: a share outside of [0, 1), a negative weight.

    Returns of a call: mean loss, its weight (targets), metrics: each component's loss and accuracy.

    >>> import types
    >>> batch = GATSBatch({}, {}, {"action": torch.tensor([[1, IGNORED]])})
    >>> say = types.SimpleNamespace(logits=torch.tensor([[[0.0, 0.0], [9.0, 0.0]]]))
    >>> model = lambda inputs, times, present: {"action": say}
    >>> loss, weight, metrics = GATSObjective()(model, batch)
    >>> round(loss.item(), 4), weight
    (0.6931, tensor(1.))

    Differs from the paper: of which the training loss is not known.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    hidden: Mapping[str, float] = field(default_factory=dict)
    scores: Scores = logits_of
    encode: Encode = encode_present

    def __post_init__(self) -> None:
        for name, share in self.hidden.items():
            if not 0.0 <= share < 1.0:
                raise UserError(
                    f"hidden: expected a share of rows in [0, 1) for component {name!r}, got {share}"
                )
        for name, weight in self.weights.items():
            if not 0.0 <= weight < float("inf"):
                raise UserError(
                    f"weights: expected a finite number >= 0 for component {name!r}, got {weight}"
                )

    def __call__(self, model: nn.Module, batch: GATSBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss of one batch; conditions are hidden while the model is in training mode."""
        if isinstance(model, GATS):
            batch = self.encode(model, batch)
        times = self._hide(batch.times) if getattr(model, "training", False) else batch.times
        outputs = model(batch.inputs, times, batch.present)
        losses, count = [], torch.zeros(())
        metrics: dict[str, Tensor] = {}
        for name, target_BT in batch.targets.items():
            scores_BTV = self.scores(outputs[name])
            there_BT = target_BT != IGNORED
            ids_M, scores_MV = target_BT[there_BT], scores_BTV[there_BT]
            loss = token_loss(scores_MV, ids_M).sum() / max(1, len(ids_M))
            losses.append(self.weights.get(name, 1.0) * loss)
            right = (scores_MV.detach().argmax(-1) == ids_M).float().sum() / max(1, len(ids_M))
            metrics |= {f"loss/{name}": loss.detach(), f"accuracy/{name}": right}
            count = count + len(ids_M)
        return torch.stack(losses).sum(), count, metrics

    def _hide(self, times: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Some rows without a condition: as if it had never arrived. Drawn from torch's generator, as dropout is."""
        changed = dict(times)
        for name, share in self.hidden.items():
            if name not in times:
                continue
            hide_B1 = torch.rand(len(times[name]), 1, device=times[name].device) < share
            changed[name] = times[name].double().masked_fill(hide_B1, float("nan"))
        return changed

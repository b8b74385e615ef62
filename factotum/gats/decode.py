"""One moment after another: exact incremental decoding, equal to the forward over the whole sequence.

A GATS layer asks of the past only the keys and values of each component's last N_m elements, so rings of N_m slots
(`factotum.gats.ring`) beside the components' own caches hold all there is to know, and a step costs the same at any
length.

What it does not know: what is done with the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from factotum.core.checks import UserError, unknown
from factotum.gats.cached import CachedPast, parameters_of
from factotum.gats.component import Tower
from factotum.gats.model import GATS
from factotum.gats.moment import Moment as Moment
from factotum.gats.moment import Step
from factotum.gats.past import NoPast, Past
from factotum.gats.replay import ReplayedPast
from factotum.gats.state import DecodeState


class GATSDecoder:
    """Runs a model piece by piece; a `factotum.core.step.Core` whose inputs are `Moment`s.

    Args:
        model: put into evaluation mode.
        context: for components with a cache, how many own elements their attention sees, itself included; without it
            all, and caches grow.

    Raises:
        UserError: a context for an unknown component or one without a cache; a component whose cache is not known.

    >>> from torch import nn
    >>> from factotum.gats import Component
    >>> def encoder(): return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 2)
    >>> model = GATS({"eyes": Component(encoder(), window=4, bidirectional=True),
    ...     "hands": Component(encoder(), window=2, bidirectional=True, steered=True)}, layers=2, width=16, heads=2)
    >>> decoder = GATSDecoder(model)
    >>> state = decoder.initial_state(3)
    >>> for t in range(3):
    ...     moment = Moment({"hands": {"src": torch.randn(3, 1, 8)}}, {"hands": torch.full((3, 1), float(t))})
    ...     outputs, state = decoder.step(moment, state)
    >>> outputs["hands"].shape, state.count("hands").tolist()
    (torch.Size([3, 1, 8]), [3, 3, 3])

    Differs from the paper: which does not describe decoding; this follows from its definition of the gather.
    """

    def __init__(self, model: GATS, context: Mapping[str, int] | None = None) -> None:
        self.model, self.context = model.eval(), dict(context or {})
        self.towers, self.names = model.towers, list(model.towers)
        for name, bound in self.context.items():
            if name not in self.towers:
                raise unknown("component", name, self.towers)
            if not isinstance(bound, int) or bound < 1:
                raise UserError(f"component {name!r}: context: expected at least 1 element, got {bound!r}")
        self.initial_state(1)

    def initial_state(self, batch_size: int) -> DecodeState:
        """Nothing seen yet in any of `batch_size` rows."""
        past = {
            name: past_of(tower, batch_size, self.context.get(name)) for name, tower in self.towers.items()
        }
        windows = {name: tower.window for name, tower in self.towers.items()}
        return DecodeState.empty(past, windows, batch_size, self.device)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def step(
        self, inputs: Moment | tuple[Any, ...], state: DecodeState
    ) -> tuple[dict[str, Any], DecodeState]:
        """What each component returns for its new elements; the state is changed in place.

        Raises:
            UserError: as `GATS.forward`; elements that are not later than what came before, another batch size.
        """
        moment = Moment(*inputs)
        self.model._check(moment.inputs, moment.times, moment.present or {})
        for name, times in moment.times.items():
            if len(times) != state.rows:
                raise UserError(
                    f"component {name!r}: expected times of {state.rows} rows as in the state, got {len(times)}"
                )
        return Step(self.model, self.towers, moment, state).run(), state


def past_of(tower: Tower, rows: int, context: int | None) -> Past:
    """What a component remembers, by its kind.

    Raises:
        UserError: a context for a component that has no cache, axes that cannot be told apart.
    """
    kind = "an encoder" if tower.bidirectional else "a module without past_key_values"
    if not tower.bidirectional and "past_key_values" in parameters_of(tower.module):
        return CachedPast(tower.name, tower.module, rows, context)
    if context is not None:
        raise UserError(f"component {tower.name!r}: a context is for components with a cache, this is {kind}")
    if tower.bidirectional:
        return NoPast()
    if tower.layout != "BTD" or tower.skip:
        raise UserError(
            f"component {tower.name!r}: incremental decoding of {kind} needs activations of axes BTD without "
            f"prefix, got {tower.layout} with {tower.skip} positions before the elements"
        )
    return ReplayedPast(rows)

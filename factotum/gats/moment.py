r"""What happens in one step of incremental decoding: components run on what is new, GATS layers read the rings.

The mask is that of the whole sequence, $0 \le n_m(t) - r_s < N_m$ (`factotum.gats.gather`), with counts that go on from
step to step.

What it does not know: other steps, what is done with the outputs. Letters: B batch, T elements that attend, S keys,
M components, R rows and E elements of a row as in `factotum.gats.component`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from factotum.gats.attend import layer_angles
from factotum.gats.component import Features, Tower
from factotum.gats.gather import Arrivals, allowed, arrivals, index, seen
from factotum.gats.model import GATS, Inputs
from factotum.gats.past import NoPast
from factotum.gats.ring import Arrival
from factotum.gats.state import DecodeState
from factotum.gats.taps import Stop, lockstep


class Moment(NamedTuple):
    """What arrives in one step: any components, any number of elements of each, all later than what came before.

    Args:
        inputs, times, present: as in `GATS.forward`, for the new elements alone. An element that is not there (NaN
            among the times, or not present) does not exist for its component either.
    """

    inputs: Inputs
    times: Mapping[str, Tensor]
    present: Mapping[str, Tensor] | None = None


class Step:
    """One step: components run on what is new, GATS layers read the rings."""

    def __init__(self, model: GATS, towers: dict[str, Tower], moment: Moment, state: DecodeState) -> None:
        self.model, self.towers, self.names = model, towers, list(towers)
        self.moment, self.state = moment, state
        self.new = [name for name in self.names if name in moment.inputs]
        self.order: dict[str, Arrivals] = {}
        self.features: dict[str, Features] = {}

    def run(self) -> dict[str, Any]:
        """Everything that needs no memory first, so that bad input is found before memory is changed."""
        for name in self.new:
            if not self._whole(name):
                self.order[name] = self._arrivals_before(name)
            elif not self.towers[name].steered:
                self._run_features(name)
        self.state.check_order({name: self._span(name) for name in self.new}, self.towers)
        for name in self.new:
            if not self.towers[name].steered and name not in self.features:
                self._run_features(name)
        steered = [name for name in self.new if self.towers[name].steered]
        outputs = lockstep({name: self._runner(name) for name in steered}, self.exchange) if steered else {}
        if not steered:
            for layer in range(len(self.model.layers)):
                self.exchange(layer, {})
        for name, arrival in self.order.items():
            latest_B = self.state.latest_BM[:, self.names.index(name)]
            latest_B.copy_(latest_B.maximum(arrival.time_BS[:, -1]))
        return {
            name: outputs[name] if name in outputs else self.features[name].output
            for name in self.moment.inputs
        }

    def _whole(self, name: str) -> bool:
        """Whether its elements come as whole rows and leave nothing behind in the component."""
        return type(self.state.past[name]) is NoPast or isinstance(self.moment.inputs[name], Features)

    def _run_features(self, name: str) -> None:
        given, tower, past = self.moment.inputs[name], self.towers[name], self.state.past[name]
        if isinstance(given, Features):
            self.features[name] = given
        else:
            found = tower.features(self._prepared(name))
            hidden = tuple(past.new(x_RED) for x_RED in found.hidden)
            self.features[name] = Features(hidden, past.output(found.output), found.unpadded_RE)
        if name not in self.order:
            found = self.features[name]
            rows, elements, _ = found.hidden[0].shape
            self.order[name] = self._arrivals(name, rows, elements, found.unpadded_RE)

    def _runner(self, name: str) -> Any:
        tower, past = self.towers[name], self.state.past[name]

        def run(stop: Stop) -> Any:
            return past.output(tower(self._prepared(name), partial(past.stop, stop=stop)))

        return run

    def _prepared(self, name: str) -> dict[str, Any]:
        given = self.moment.inputs[name]
        assert not isinstance(given, Features)
        if self._whole(name):
            return dict(given)
        return self.state.past[name].prepare(given, present_of(self.order[name]))

    def _arrivals_before(self, name: str) -> Arrivals:
        """Of a component with a memory, from its inputs: one row for each batch element."""
        given, times = self.moment.inputs[name], self.moment.times[name]
        assert not isinstance(given, Features)
        elements = self.state.past[name].elements(given, times)
        mask = given.get("attention_mask")
        if not isinstance(mask, Tensor) or tuple(mask.shape) != (len(times), elements):
            mask = None
        return self._arrivals(name, len(times), elements, mask)

    def _arrivals(self, name: str, rows: int, elements: int, unpadded: Tensor | None) -> Arrivals:
        tower, present = self.towers[name], (self.moment.present or {}).get(name)
        device = self.state.device
        return arrivals(
            name, self.moment.times[name].to(device), rows, elements, window=tower.window,
            bidirectional=tower.bidirectional, present=None if present is None else present.to(device),
            unpadded=None if unpadded is None else unpadded.to(device).bool(),
        )  # fmt: skip

    def _span(self, name: str) -> tuple[Tensor, Tensor]:
        """When the new elements (or rows of an encoder) arrive, and which of them are there."""
        if name in self.order:
            times, there = self.order[name].time_BS, present_of(self.order[name])
        else:
            times = self.moment.times[name].double().to(self.state.device)
            there = ~times.isnan()
            present = (self.moment.present or {}).get(name)
            if present is not None and present.shape == times.shape:
                there = there & present.to(there.device).bool()
        return times, there

    def exchange(self, layer: int, steered: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather from the rings and what is new, attend, give the steered ones back."""
        rows = {
            name: steered[name] if name in steered else self.features[name].hidden[layer] for name in self.new
        }
        if layer == 0:
            self._plan(rows, list(steered))
        run: Any = self.model.layers[layer]
        u, keys, values = {}, [], []
        x = {name: x_RED.reshape(self.state.rows, -1, x_RED.shape[-1]) for name, x_RED in rows.items()}
        for name in self.names:
            if name in x:
                u[name] = run.enter(name, x[name], self.order[name].present_BS)
            if name in self.readable:
                kept = self.state.rings[name].kept(layer)
                if name in x:
                    k, v = run.keys_values(u[name], self.angles[name])
                    kept = self.state.rings[name].store(layer, self.readable[name], k, v)
                assert kept is not None
                keys.append(kept[0])
                values.append(kept[1])
        if not steered:
            return {}
        q = torch.cat([run.queries(u[name], self.angles[name]) for name in self.attending], 2)
        u_BTC = torch.cat([u[name] for name in self.attending], 1)
        a_BTC = torch.zeros_like(u_BTC)
        if keys:  # there is something that may be read, whether or not the mask allows it
            a_BTC = run.attend(q, torch.cat(keys, 2), torch.cat(values, 2), self.mask_B1TS)
        parts = run.branches(u_BTC, a_BTC).split([x[name].shape[1] for name in self.attending], 1)
        return {
            name: run.leave(name, x[name], y, self.order[name].present_BS).reshape(steered[name].shape)
            for name, y in zip(self.attending, parts, strict=True)
        }

    def _plan(self, rows: dict[str, Tensor], attending: list[str]) -> None:
        """What all layers of the step share: counts go on from those in the state."""
        self.attending, state, config = attending, self.state, self.model.config
        for name in self.new:
            if name not in self.order:
                tower, given = self.towers[name], self.moment.inputs[name]
                assert not isinstance(given, Features)
                R, E, _ = rows[name].shape
                self.order[name] = self._arrivals(name, R, E, tower.unpadded(given, rows[name]))
        self.order = {name: self.order[name] for name in self.new}
        every = list(self.order.values())
        before_BM = torch.stack([state.count(name) for name in self.names], 1)
        total_B1 = before_BM.sum(1, keepdim=True)
        self.angles: dict[str, Tensor | None] = {}
        for which, (name, arrival) in enumerate(self.order.items()):
            where_BS = (
                arrival.time_BS if config.positions == "time" else (total_B1 + index(every, which)).double()
            )
            if arrival.present_BS is not None:
                where_BS = where_BS.masked_fill(~arrival.present_BS, 0.0)
            self.angles[name] = layer_angles(where_BS, config)
        alone = sum(arrival.rank_BS.shape[1] for arrival in every) == 1
        self.readable: dict[str, Arrival] = {}
        for name in self.names:
            ring = state.rings[name]
            came = name in self.order
            arrival_ = ring.arrive(present_of(self.order[name]), joined=not alone) if came else ring.here()
            if self.towers[name].window and (came or ring.keys):
                self.readable[name] = arrival_
        if attending and self.readable:
            self.mask_B1TS = self._mask(every, before_BM)

    def _mask(self, every: list[Arrivals], before_BM: Tensor) -> Tensor:
        """Which slots of the readable rings each attending element sees, `B 1 T S`."""
        columns = [self.names.index(name) for name in self.order]
        counts = []
        for name in self.attending:
            found_BTM = seen(every, list(self.order).index(name))
            count_BTM = before_BM[:, None].repeat(1, found_BTM.shape[1], 1)
            count_BTM[..., columns] += found_BTM
            counts.append(count_BTM)
        device = before_BM.device
        rank_BS = torch.cat([arrival.key_index_BS for arrival in self.readable.values()], 1) + 1
        sizes = torch.tensor(
            [arrival.key_index_BS.shape[1] for arrival in self.readable.values()], device=device
        )
        modality_S = torch.tensor([self.names.index(name) for name in self.readable], device=device)
        windows_M = torch.tensor([self.towers[name].window for name in self.names], device=device)
        mask = allowed(
            torch.cat(counts, 1), rank_BS, modality_S.repeat_interleave(sizes), windows_M, rank_BS > 0
        )
        if any(self.order[name].present_BS is not None for name in self.attending):
            mask = mask & torch.cat([present_of(self.order[name]) for name in self.attending], 1)[:, :, None]
        return mask[:, None]


def present_of(arrival: Arrivals) -> Tensor:
    """Which elements are there, `B S`."""
    return (
        torch.ones_like(arrival.rank_BS, dtype=torch.bool)
        if arrival.present_BS is None
        else arrival.present_BS
    )

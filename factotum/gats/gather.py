r"""Gather: which elements each element sees, in closed form (arXiv 2401.08525).

All elements of all components are one sequence in order of arrival. Elements that arrive at one time stand in the
order of the components, then of their places. An element t sees

$s \in G(t) \iff s \le h(t) \;\wedge\; \#\{m\text{-elements in } (s, h(t)]\} < N_m$, m the component of s,

with the horizon h(t) = t, or, in a steered encoder, the last element of t's component with t's arrival time. With
$r_s$ the rank of s within its component and $n_m(t)$ the number of m-elements up to h(t), this is
$0 \le n_m(t) - r_s < N_m$: counting alone, for all elements at once; ring buffers use the same rule.

What it does not know: activations, attention.

Letters: B batch, S elements of one component or of all, T those of them that attend, M components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from factotum.core.checks import UserError


@dataclass
class Arrivals:
    """When the elements of one component arrive.

    Args:
        time_BS: in double precision, never running backwards; absent elements repeat the one before.
        present_BS: which elements are there; None for all.
        rank_BS: how many elements are there up to and with this one.
        window: N_m.
        bidirectional: whether elements that attend see all of their component with their arrival time.
    """

    time_BS: Float[Tensor, "B S"]
    present_BS: Bool[Tensor, "B S"] | None
    rank_BS: Int[Tensor, "B S"]
    window: int
    bidirectional: bool = False

    def to(self, device: torch.device) -> Arrivals:
        """On another device."""
        there_BS = None if self.present_BS is None else self.present_BS.to(device)
        return replace(
            self, time_BS=self.time_BS.to(device), present_BS=there_BS, rank_BS=self.rank_BS.to(device)
        )

    def count(self, time_BT: Float[Tensor, "B T"], *, until: bool) -> Int[Tensor, "B T"]:
        """How many elements arrive before each time; with `until`, up to and with it."""
        number_BT = torch.searchsorted(self.time_BS.contiguous(), time_BT.contiguous(), right=until)
        before_BS = torch.nn.functional.pad(self.rank_BS, (1, 0))
        return before_BS.gather(1, number_BT)


def arrivals(
    name: str,
    times: Tensor,
    rows: int,
    elements: int,
    *,
    window: int,
    bidirectional: bool = False,
    present: Tensor | None = None,
    unpadded: Tensor | None = None,
) -> Arrivals:
    """Arrival times of one component's elements, checked.

    Args:
        name: of the component, for errors.
        times: of each element, `B S`, or of each row, `B R/B`; NaN for one that is not there.
        rows: R, rows of the component's batch.
        elements: E, of each row.
        present: which elements or rows are there, of a shape that `times` may have.
        unpadded: which elements of each row are there, `R E`.

    Raises:
        UserError: other shapes, times that run backwards, a row of an encoder that arrives piece by piece.

    >>> arrivals("text", torch.tensor([[0.0, 0.0, 3.0]]), 1, 3, window=2).rank_BS
    tensor([[1, 2, 3]])
    """
    if times.dim() != 2 or rows % max(1, len(times)):
        raise UserError(
            f"component {name!r}: times: expected a batch that divides its {rows} rows, of shape batch x elements, "
            f"got shape {tuple(times.shape)}"
        )
    time_BS = _each_element(name, "times", times.double(), rows, elements)
    there_BS = ~time_BS.isnan()
    if present is not None:
        there_BS = there_BS & _each_element(name, "present", present.bool(), rows, elements)
    if unpadded is not None:
        there_BS = there_BS & unpadded.reshape(there_BS.shape)
    earliest = time_BS.new_tensor(float("-inf"))
    filled_BS = time_BS.where(there_BS, earliest).cummax(1).values
    _check_order(name, time_BS, filled_BS, there_BS)
    if bidirectional:
        _check_rows(name, time_BS, there_BS, elements)
    rank_BS = there_BS.long().cumsum(1)
    return Arrivals(filled_BS, None if bool(there_BS.all()) else there_BS, rank_BS, window, bidirectional)


def _each_element(name: str, what: str, values: Tensor, rows: int, elements: int) -> Tensor:
    B = len(values)
    each_row = rows // B
    if tuple(values.shape) == (B, each_row * elements):
        return values
    if tuple(values.shape) == (B, each_row):
        return values.repeat_interleave(elements, dim=1)
    raise UserError(
        f"component {name!r}: {what}: expected shape {(B, each_row * elements)} (each element) or {(B, each_row)} "
        f"(each row), got {tuple(values.shape)}"
    )


def _check_order(name: str, time_BS: Tensor, filled_BS: Tensor, there_BS: Tensor) -> None:
    wrong = there_BS & (time_BS < filled_BS)
    if bool(wrong.any()):
        b, s = (int(i) for i in wrong.nonzero()[0])
        raise UserError(
            f"component {name!r}: times run backwards: element {s} of batch element {b} arrives at "
            f"{time_BS[b, s]:g}, after one at {filled_BS[b, s]:g}"
        )
    infinite = there_BS & time_BS.isinf()
    if bool(infinite.any()):
        raise UserError(
            f"component {name!r}: times: expected finite numbers (or NaN for absent), got infinity"
        )


def _check_rows(name: str, time_BS: Tensor, there_BS: Tensor, elements: int) -> None:
    time_BRE, there_BRE = time_BS.unflatten(1, (-1, elements)), there_BS.unflatten(1, (-1, elements))
    low = time_BRE.where(there_BRE, time_BRE.new_tensor(float("inf"))).amin(-1)
    high = time_BRE.where(there_BRE, time_BRE.new_tensor(float("-inf"))).amax(-1)
    if bool((high > low).any()):
        raise UserError(
            f"component {name!r}: an encoder's elements know all of their row: expected one arrival time for each "
            "row (or Component(..., bidirectional=False) where it does not look ahead)"
        )


def seen(all_arrivals: Sequence[Arrivals], which: int) -> Int[Tensor, "B S M"]:
    """n_m(t): how many elements of each component lie up to the horizon of each element of component `which`."""
    mine = all_arrivals[which]
    counts = [
        _own(mine) if m == which else other.count(mine.time_BS, until=m < which)
        for m, other in enumerate(all_arrivals)
    ]
    return torch.stack(counts, dim=-1)


def _own(mine: Arrivals) -> Tensor:
    return mine.count(mine.time_BS, until=True) if mine.bidirectional else mine.rank_BS


def index(all_arrivals: Sequence[Arrivals], which: int) -> Int[Tensor, "B S"]:
    """Places of a component's elements in the interleaved sequence, from 0; absent elements take none."""
    mine = all_arrivals[which]
    before_BSM = [
        mine.rank_BS - 1 if m == which else other.count(mine.time_BS, until=m < which)
        for m, other in enumerate(all_arrivals)
    ]
    return torch.stack(before_BSM).sum(0)


def allowed(
    seen_BTM: Int[Tensor, "B T M"],
    rank_BS: Int[Tensor, "B S"],
    modality_S: Int[Tensor, " S"],
    windows_M: Int[Tensor, " M"],
    present_BS: Bool[Tensor, "B S"] | None = None,
) -> Bool[Tensor, "B T S"]:
    r"""The mask: $0 \le n_m(t) - r_s < N_m$ and s is there.

    Args:
        seen_BTM: n_m(t) of the elements that attend.
        rank_BS: r_s of the elements that can be attended to, counted from 1 within their component.
        modality_S: their components.
        windows_M: N_m.

    >>> seen = torch.tensor([[[1], [2], [3]]])
    >>> zeros = torch.zeros(3, dtype=torch.long)
    >>> allowed(seen, torch.tensor([[1, 2, 3]]), zeros, torch.tensor([2])).int().tolist()
    [[[1, 0, 0], [1, 1, 0], [0, 1, 1]]]
    """
    alone = seen_BTM.shape[2] == 1  # then nothing of the mask's size but the mask
    seen_BTS, windows_S = (
        (seen_BTM, windows_M) if alone else (seen_BTM[:, :, modality_S], windows_M[modality_S])
    )
    mask = (rank_BS[:, None] <= seen_BTS) & (rank_BS[:, None] > seen_BTS - windows_S)
    return mask if present_BS is None else mask & present_BS[:, None]


@dataclass
class Plan:
    """What all GATS layers of one call share.

    Args:
        positions: for each component, where its elements stand (index or time), `B S`.
        mask_B1TS: which elements each steered one sees; components follow one another on both axes.
        present: for each component, which of its elements are there; None for all.
    """

    positions: dict[str, Tensor]
    mask_B1TS: Bool[Tensor, "B 1 T S"]
    present: dict[str, Tensor | None]


def plan(order: Mapping[str, Arrivals], steered: Sequence[str], positions: str = "index") -> Plan:
    """The mask and the positions of a call, from the arrivals of its components in their order.

    Args:
        order: components in the order in which simultaneous elements stand.
        steered: the names of those that attend, in the same order.
        positions: "index", "time" or "none".
    """
    every, names = list(order.values()), list(order)
    seen_BTM = torch.cat([seen(every, names.index(name)) for name in steered], dim=1)
    parts = [_part(one, seen_BTM[:, :, m : m + 1]) for m, one in enumerate(every)]
    mask_BTS = torch.cat(parts, dim=2)
    attending = [order[name] for name in steered]
    if any(one.present_BS is not None for one in attending):
        mask_BTS = mask_BTS & torch.cat([_there(one) for one in attending], dim=1)[:, :, None]
    where = {
        name: one.time_BS.clamp(min=torch.finfo().min) if positions == "time" else index(every, m).double()
        for m, (name, one) in enumerate(order.items())
    }
    return Plan(where, mask_BTS[:, None], {name: order[name].present_BS for name in names})


def _part(one: Arrivals, seen_BT1: Tensor) -> Tensor:
    zeros_S = torch.zeros_like(one.rank_BS[0])
    return allowed(seen_BT1, one.rank_BS, zeros_S, zeros_S.new_tensor([one.window]), one.present_BS)


def _there(one: Arrivals) -> Tensor:
    return torch.ones_like(one.rank_BS, dtype=torch.bool) if one.present_BS is None else one.present_BS

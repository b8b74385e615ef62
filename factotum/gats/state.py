"""The carried state of incremental decoding: a ring for each component, and what the components remember themselves.

What it does not know: how it is used. Letters: B rows, M components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from factotum.core.checks import UserError
from factotum.gats.component import Tower
from factotum.gats.past import Past
from factotum.gats.ring import Ring


@dataclass
class DecodeState:
    """What B rows have seen; `GATSDecoder.step` changes it in place.

    Args:
        rings: keys and values of each component's last N_m elements, at each GATS layer.
        past: what each component remembers for its own attention.
        latest_BM: when each row's last element of each component arrived.
    """

    rings: dict[str, Ring]
    past: dict[str, Past]
    latest_BM: Tensor

    @classmethod
    def empty(
        cls, past: dict[str, Past], windows: Mapping[str, int], rows: int, device: torch.device
    ) -> DecodeState:
        """Nothing seen yet."""
        rings = {name: Ring.empty(rows, max(1, window), device) for name, window in windows.items()}
        never = float("-inf")
        return cls(rings, past, torch.full((rows, len(rings)), never, dtype=torch.float64, device=device))

    @property
    def rows(self) -> int:
        """B."""
        return len(self.latest_BM)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.latest_BM.device

    def count(self, name: str) -> Int[Tensor, " B"]:
        """How many elements of a component each row has seen."""
        return self.rings[name].count_B

    def reset_rows(self, rows: Int[Tensor, " R"]) -> None:
        """Begin anew in the given rows."""
        for name, ring in self.rings.items():
            ring.reset_rows(rows)
            self.past[name].reset_rows(rows)
        self.latest_BM[rows] = float("-inf")

    def select(self, rows: Int[Tensor, " R"]) -> DecodeState:
        """A copy with the given rows, in their order and as often as they are named."""
        return DecodeState(
            {name: ring.select(rows) for name, ring in self.rings.items()},
            {name: past.select(rows) for name, past in self.past.items()},
            self.latest_BM[rows],
        )

    def put(self, rows: Int[Tensor, " R"], other: DecodeState) -> None:
        """Put the rows of `other` into `rows`."""
        for name, ring in self.rings.items():
            ring.put(rows, other.rings[name])
            self.past[name].put(rows, other.past[name])
        self.latest_BM[rows] = other.latest_BM

    def check_order(self, times: Mapping[str, tuple[Tensor, Tensor]], towers: Mapping[str, Tower]) -> None:
        """New elements stand behind all that came before, in the order of one forward over everything.

        Args:
            times: for each component with new elements, when they arrive and which of them are there, both `B S`.
            towers: all components, in the order in which simultaneous elements stand.

        Raises:
            UserError: one arrives before another that was seen earlier, or with one that it should precede.
        """
        names = list(towers)
        if not times:
            return
        never = float("inf")
        first_BN = torch.stack(
            [time_BS.masked_fill(~there_BS, never).amin(1) for time_BS, there_BS in times.values()], 1
        )
        strict_NM = torch.tensor([[_precedes(name, other, towers) for other in names] for name in times])
        latest_B1M = self.latest_BM[:, None]
        early = (first_BN[..., None] < latest_B1M) | (
            strict_NM.to(self.device) & (first_BN[..., None] == latest_B1M)
        )
        if bool(early.any()):
            b, n, m = (int(i) for i in early.nonzero()[0])
            raise UserError(
                f"component {list(times)[n]!r}: times run backwards: an element of row {b} arrives at "
                f"{first_BN[b, n]:g}, and one of {names[m]!r} came before, at {self.latest_BM[b, m]:g} (elements with "
                f"one time stand in the order {', '.join(names)}, and those of one encoder's row come together)"
            )


def _precedes(name: str, other: str, towers: Mapping[str, Tower]) -> bool:
    """Whether an element of `name` has to come before one of `other` with the same time, or with it."""
    if name == other:
        return towers[name].bidirectional and towers[name].steered
    return list(towers).index(name) < list(towers).index(other)

"""What all benchmarks share: interleaved repeats, medians of ratios, a printed table and a JSON file.

The machine is never quiet, so contestants take turns (A B A B) and a ratio is formed within each round: what
slows one down slows the other down too.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from factotum import __version__
from factotum.core.files import write_json_atomic

RESULTS = Path(__file__).parent / "results"


def interleaved(
    contestants: Mapping[str, Callable[[], float]], repeats: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Rates of each contestant, one a round; `warm_up` rounds come first and do not count."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(warm_up + repeats):
        for name, run in contestants.items():
            rate = run()
            if number >= warm_up:
                rates[name].append(rate)
    return rates


def timed(work: Callable[[], Any], amount: float) -> float:
    """Amount a second: `work` is called once."""
    start = time.perf_counter()
    work()
    return amount / (time.perf_counter() - start)


@dataclass(frozen=True)
class Ratio:
    """How many times as fast, over the rounds.

    Args:
        name: what over what.
        median, low, high: over rounds; low and high are the extremes.
        target: what the project asks for, None where it asks for nothing.
    """

    name: str
    median: float
    low: float
    high: float
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target."""
        return None if self.target is None else self.median >= self.target


def ratio(rates: Mapping[str, Sequence[float]], of: str, over: str, target: float | None = None) -> Ratio:
    """The ratio of two contestants, formed within each round.

    >>> ratio({"a": [2.0, 9.0, 4.0], "b": [1.0, 3.0, 2.0]}, "a", "b", target=1.5).median
    2.0
    """
    rounds = [a / b for a, b in zip(rates[of], rates[over], strict=True)]
    return Ratio(f"{of} / {over}", statistics.median(rounds), min(rounds), max(rounds), target)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "factotum": __version__,
    }


def report(
    name: str,
    unit: str,
    rates: Mapping[str, Sequence[float]],
    ratios: Sequence[Ratio],
    output: Path | None = None,
    **details: Any,
) -> None:
    """Print rates and ratios and write them to `output`, by default benchmarks/results/<name>.json."""
    console = Console(width=120)
    table = Table("contestant", f"{unit} (median)", "lowest", "highest", title=f"{name}: {unit}")
    for contestant, values in rates.items():
        row = (statistics.median(values), min(values), max(values))
        table.add_row(contestant, *(f"{value:,.1f}" for value in row))
    console.print(table)
    table = Table("ratio", "median", "lowest", "highest", "target", "met")
    for found in ratios:
        target, met = (
            ("", "") if found.target is None else (f"{found.target:g}", "yes" if found.met else "no")
        )
        table.add_row(found.name, *(f"{x:.2f}" for x in (found.median, found.low, found.high)), target, met)
    if ratios:
        console.print(table)
    write(
        name, {"unit": unit, "rates": rates, "ratios": [asdict(found) for found in ratios], **details}, output
    )


def write(name: str, contents: Mapping[str, Any], output: Path | None = None) -> None:
    """Write a benchmark's JSON."""
    path = output or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, {"benchmark": name, "machine": machine(), **contents})
    print(f"written to {path}")

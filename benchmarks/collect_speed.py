"""Episodes a second that `factotum collect` gathers and stores, on two processes beside one.

    python benchmarks/collect_speed.py --quick

Each run collects a fresh dataset into a temporary folder, parts, merge and all. Worker processes are started in a
first round that does not count, as they are in any collection that takes longer than they take to start.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro
from _measure import interleaved, ratio, report, timed

from factotum.recipes import collect


@dataclass(frozen=True)
class Args:
    """Measure collection speed."""

    tasks: tuple[str, ...] = ("babyai/GoToLocal", "metaworld/reach")
    """tasks to collect, one after the other"""
    episodes: int = 200
    """episodes of each task in a run"""
    jobs: int = 2
    """processes beside one"""
    repeats: int = 5
    """rounds that count"""
    quick: bool = False
    """three rounds of 100 episodes of the first task"""
    output: Path | None = None
    """JSON file; by default benchmarks/results/collect_speed.json"""


def contestant(task: str, episodes: int, jobs: int) -> Callable[[], float]:
    """Episodes a second with so many processes."""

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            args = collect.Args(tasks=(task,), episodes=episodes, data=Path(folder), jobs=jobs)
            return timed(lambda: collect.main(args), episodes)

    return run


def main(args: Args) -> None:
    """Measure each task with one process and with several."""
    repeats, episodes = (3, 100) if args.quick else (args.repeats, args.episodes)
    rates, ratios = {}, []
    for task in args.tasks[:1] if args.quick else args.tasks:
        one, several = f"{task}, 1 process", f"{task}, {args.jobs} processes"
        jobs = {one: 1, several: args.jobs}
        measured = interleaved({who: contestant(task, episodes, n) for who, n in jobs.items()}, repeats)
        rates |= measured
        ratios.append(ratio(measured, several, one, target=1.7 if args.jobs == 2 else None))
    report("collect_speed", "episodes/s", rates, ratios, args.output, episodes=episodes)


if __name__ == "__main__":
    main(tyro.cli(Args))

"""CPU time for each suggestion at 100 trials in ten dimensions: all contestants in one run, taking turns.

A suggestion is ask and tell; the evaluation does not count. rnn, tpe, cma, gp and random are measured inside Optuna
(study in memory), core is our step alone, ngopt and botorch are asked directly, without any framework around them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from _measure import machine
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from samplers_problems import Problem
from samplers_rivals import Rival, our_core, play, play_batch

from factotum.core.files import write_json_atomic

DIMENSIONS, TRIALS, LAST = 10, 100, 10


def valley(x: np.ndarray) -> float:
    """Rosenbrock's function on [-2, 2]^D."""
    u = 4.0 * x - 2.0
    return float(np.sum(100 * (u[1:] - u[:-1] ** 2) ** 2 + (1 - u[:-1]) ** 2))


def once(rival: Rival, problem: Problem) -> tuple[float, float]:
    """Milliseconds of a suggestion: mean of all, and of the last ten."""
    if rival.base == "core":
        _, seconds = play_batch(our_core(rival.weights), [problem])
    else:
        _, seconds = play(rival.player(problem), problem)
    return 1000 * statistics.fmean(seconds), 1000 * statistics.fmean(seconds[-LAST:])


def measure(rivals: Sequence[Rival], repeats: int, folder: Path) -> None:
    """Rounds of all contestants; medians over rounds and the ratios to ours go to time.json."""
    problem = Problem("time", "valley", 0, DIMENSIONS, TRIALS, (TRIALS,), valley)
    rivals = [rival for rival in rivals if rival.takes(problem)]
    found: dict[str, list[tuple[float, float]]] = {rival.label: [] for rival in rivals}
    for rival in rivals:  # imports and first calls do not count
        once(rival, replace(problem, budget=TRIALS // 5))
    with Progress() as progress:
        task = progress.add_task("time", total=repeats * len(rivals))
        for _ in range(repeats):
            for rival in rivals:
                found[rival.label].append(once(rival, problem))
                progress.advance(task)
    mean = {label: statistics.median(pair[0] for pair in pairs) for label, pairs in found.items()}
    last = {label: statistics.median(pair[1] for pair in pairs) for label, pairs in found.items()}
    _show(mean, last)
    setting = {"dimensions": DIMENSIONS, "trials": TRIALS, "last": LAST, "repeats": repeats}
    contents = {
        "benchmark": "samplers time",
        "machine": machine(),
        **setting,
        "mean_ms": mean,
        "last_ms": last,
    }
    write_json_atomic(folder / "time.json", contents)
    print(f"written to {folder / 'time.json'}")


def _show(mean: dict[str, float], last: dict[str, float]) -> None:
    ours = [label for label in last if label.partition("-")[0] in ("rnn", "core")]
    heads = (f"/ {label}" for label in ours)
    table = Table("rival", "ms, mean of 100", "ms, last 10", *heads, title="CPU time", box=box.MARKDOWN)
    for label, value in last.items():
        ratios = (f"{value / last[our]:,.1f}" for our in ours)
        table.add_row(label, f"{mean[label]:.3g}", f"{value:.3g}", *ratios)
    Console(width=140).print(table)

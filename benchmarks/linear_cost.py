"""Cost grows linearly: of acting with the length of an episode, of everything else with the volume of data.

    python benchmarks/linear_cost.py --quick

Cost is CPU time over all threads, which a busy machine hardly changes. Prints the slope of log(cost) over log(size)
for each, about 1 where cost is linear (2 where it is quadratic), and draws them. Acting goes far beyond the window of
positions that attention sees.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from _measure import RESULTS, write
from gymnasium import spaces
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from factotum.data.episode import Episode
from factotum.data.store import Dataset, write_dataset
from factotum.data.validate import validate
from factotum.gato import Gato, GatoAgent, gato_small
from factotum.gato.dataset import GatoBatches, TaskData, pool_statistics, train_tokenizer, write_task_shard

OBSERVATIONS = spaces.Dict(
    instruction=spaces.Text(64),
    grid=spaces.MultiDiscrete(np.full((7, 7, 3), 11)),
    state=spaces.Box(-np.inf, np.inf, (8,), np.float32),
)
ACTIONS = spaces.Box(-1.0, 1.0, (4,), np.float32)
METADATA = {"task": "t", "instruction": "", "body": "t", "measure": "return", "random": None, "expert": None}
STEPS = 50
"""Timesteps of an episode of the data."""


@dataclass(frozen=True)
class Args:
    """Measure how cost grows."""

    lengths: tuple[int, ...] = (100, 200, 400, 800, 1500, 3000)
    """timesteps of an episode to act in"""
    episodes: tuple[int, ...] = (100, 200, 400, 800, 1600, 3200)
    """episodes of the data, 50 timesteps each"""
    context: int = 128
    """positions that attention sees"""
    repeats: int = 3
    """runs of each size; the fastest counts"""
    threads: int = 2
    """CPU threads"""
    quick: bool = False
    """one run of each, up to 800 timesteps of acting and 800 episodes"""
    output: Path | None = None
    """JSON file; by default benchmarks/results/linear_cost.json, with a picture beside it"""


def sample_episodes(count: int) -> Iterator[Episode]:
    """Episodes of random values, their texts few."""
    generator = np.random.default_rng(0)
    for number in range(count):
        observations = {
            "instruction": [f"place{number % 20}"] * (STEPS + 1),
            "grid": generator.integers(0, 11, (STEPS + 1, 7, 7, 3)),
            "state": generator.normal(size=(STEPS + 1, 8)).astype(np.float32),
        }
        actions = generator.uniform(-1, 1, (STEPS, 4)).astype(np.float32)
        ended = np.arange(STEPS) == STEPS - 1
        yield Episode(observations, actions, np.zeros(STEPS), ended, ended & False, seed=number, score=0.0)


class Data:
    """`count` episodes on their way from memory to batches; each method is timed on its own."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count

    def store(self) -> None:
        """Write a dataset."""
        write_dataset(
            self.folder, "some/data-v0", sample_episodes(self.count), OBSERVATIONS, ACTIONS, METADATA
        )

    def validate(self) -> None:
        """Look for bad data in it."""
        assert list(validate(self.folder / "some" / "data-v0")) == []

    def columns(self) -> None:
        """Read it and write columns."""
        stored = Dataset(self.folder / "some" / "data-v0")
        spaces_of = {"observation_space": OBSERVATIONS, "action_space": ACTIONS}
        self.shard = write_task_shard(self.folder / "columns", stored, task="t", body="t", **spaces_of)
        self.tokenizer = train_tokenizer([self.shard], 300)

    def batches(self) -> None:
        """Statistics, and as many batches as the data fills."""
        config = gato_small(context=128)
        task = TaskData.open(self.shard, False, config, self.tokenizer, pool_statistics([self.shard]))
        batches = GatoBatches([task], config, rows=8, seed=0)
        for step in range(max(1, len(self.shard) // (8 * batches.row_steps[0]))):
            batches(step)


def time_data(counts: tuple[int, ...], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each stage for each number of episodes, the fastest of `repeats` runs."""
    seconds: dict[str, list[float]] = {name: [] for name in ("store", "validate", "columns", "batches")}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            data = Data(Path(folder), count)
            for name, found in seconds.items():
                found.append(min(_seconds(getattr(data, name)) for _ in range(repeats)))
    return seconds


def make_agent(tokens: Literal["fused", "scalar"], context: int) -> GatoAgent:
    """An untrained agent for vectors."""
    space = spaces.Dict(state=OBSERVATIONS["state"])
    torch.manual_seed(0)
    model = Gato(gato_small(tokens=tokens, context=context))
    model.statistics.add("t", "t", count=1, total=np.zeros(8), squares=np.ones(8))
    return GatoAgent(model, "t", space, ACTIONS)


def time_acting(agent: GatoAgent, lengths: tuple[int, ...], repeats: int) -> list[float]:
    """CPU seconds of one episode of each length, the fastest of `repeats` runs."""
    observation = {"state": np.zeros(8, np.float32)}

    def episode(length: int) -> None:
        state = agent.initial_state(1)
        for t in range(length):
            _, state = agent.step(([observation], [t == 0]), state)

    episode(20)
    return [
        min(_seconds(lambda length=length: episode(length)) for _ in range(repeats)) for length in lengths
    ]


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def slope(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Of log(seconds) over log(size), by least squares.

    >>> round(slope((1, 10, 100), [2.0, 20.0, 200.0]), 3)
    1.0
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def draw(curves: dict[str, tuple[tuple[int, ...], list[float]]], path: Path) -> None:
    """Both kinds of cost in logarithmic axes, beside a line of slope 1."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2), ("acting", "data"), strict=True):
        for name, (sizes, seconds) in curves.items():
            if name.startswith(kind):
                label = f"{name.partition(', ')[2]}, slope {slope(sizes, seconds):.2f}"
                axes.loglog(sizes, seconds, "o-", label=label)
        axes.loglog(sizes, [seconds[-1] * size / sizes[-1] for size in sizes], "k:", label="slope 1")
        axes.set(ylabel="CPU seconds", title=kind, xlabel="timesteps")
        axes.legend()
    figure.savefig(path, dpi=120)


def main(args: Args) -> None:
    """Measure, print, draw."""
    torch.set_num_threads(args.threads)
    lengths, counts, repeats = args.lengths, args.episodes, args.repeats
    if args.quick:
        lengths, counts, repeats = lengths[:4], counts[:4], 1
    curves = {
        f"acting, {tokens}": (lengths, time_acting(make_agent(tokens, args.context), lengths, repeats))
        for tokens in ("fused", "scalar")
    }
    volumes = tuple(STEPS * count for count in counts)
    curves |= {f"data, {name}": (volumes, found) for name, found in time_data(counts, repeats).items()}
    table = Table("cost", "timesteps", "CPU seconds", "slope", title="CPU seconds = c x timesteps ^ slope")
    for name, (sizes, seconds) in curves.items():
        span = f"{sizes[0]:,} to {sizes[-1]:,}", f"{seconds[0]:.2f} to {seconds[-1]:.2f}"
        table.add_row(name, *span, f"{slope(sizes, seconds):.2f}")
    Console(width=100).print(table)
    output = args.output or RESULTS / "linear_cost.json"
    found = {
        name: {"timesteps": sizes, "seconds": seconds, "slope": slope(sizes, seconds)}
        for name, (sizes, seconds) in curves.items()
    }
    write("linear_cost", {"curves": found}, output)
    draw(curves, output.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Args))

"""Environment steps a second: 16 environments in one cached batch beside one environment without a cache.

    python benchmarks/act_speed.py --quick

Both play real episodes through `factotum.training.evaluate`, with an untrained model of the size that
`factotum train` takes by default. Without a cache, the whole window is encoded anew by the parallel pass at every
position that is predicted; its embeddings are kept even so, in its favour. One environment with a cache is there to
tell what the cache gives and what the batch gives.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from _measure import interleaved, ratio, report, timed
from torch import Tensor

from factotum.gato import Gato, GatoAgent, GatoConfig, gato_small
from factotum.gato.agent import AgentState
from factotum.gato.sequence import Block
from factotum.gato.statistics import Statistics
from factotum.gato.text import TextTokenizer
from factotum.training.evaluate import evaluate, evaluation_seeds
from factotum.worlds.suites import registry
from factotum.worlds.suites.task import Task

CONTEXTS = {"fused": 256, "scalar": 1024}


@dataclass(frozen=True)
class Args:
    """Measure acting speed."""

    tasks: tuple[str, ...] = ("gym/MountainCar", "babyai/GoToRedBall")
    """tasks whose environments are cheap"""
    tokens: tuple[Literal["fused", "scalar"], ...] = ("fused", "scalar")
    """positions of a timestep"""
    context: int | None = None
    """positions that attention sees; by default 256 for fused tokens (ours), 1024 for scalar ones (the paper's)"""
    batch_size: int = 16
    """environments in the batch"""
    steps: int = 200
    """longest episode"""
    repeats: int = 5
    """rounds that count"""
    threads: int = 2
    """CPU threads"""
    quick: bool = False
    """three rounds of 60 steps"""
    output: Path | None = None
    """JSON file; by default benchmarks/results/act_speed.json"""


@dataclass
class History:
    """The embedded positions of one row, in place of a cache."""

    x_1TD: Tensor

    def reset_rows(self, rows: Tensor) -> None:
        """Forget everything."""
        self.x_1TD = self.x_1TD[:, :0]


class UncachedAgent(GatoAgent):
    """Acts in one environment and encodes the whole window at each call of the model."""

    def initial_state(self, batch_size: int) -> AgentState:
        """No episode begun; one row only."""
        assert batch_size == 1
        state = super().initial_state(1)
        state.cache = History(torch.zeros(1, 0, self.model.config.width))  # type: ignore[assignment]
        return state

    def _run(self, blocks: list[Block], valid_BT: Tensor, cache: Any) -> Tensor:
        x_1TD = self.model.embed(blocks, *valid_BT.shape)[:, valid_BT[0]]
        cache.x_1TD = torch.cat([cache.x_1TD, x_1TD], 1)[:, -self.model.config.context :]
        return self.model.decoder(cache.x_1TD)[:, -1]


def make_model(task: Task, config: GatoConfig) -> Gato:
    """An untrained model that knows the task's text and statistics."""
    env = task.make()
    observations = [env.reset(seed=seed)[0] for seed in range(8)]
    env.close()
    statistics = Statistics()
    if "state" in observations[0]:
        values = np.stack([observation["state"].ravel() for observation in observations])
        sums = {"total": values.sum(0), "squares": (values**2).sum(0)}
        statistics.add(task.name, task.body, count=len(values), **sums)
    texts = [observation["instruction"] for observation in observations]
    torch.manual_seed(0)
    return Gato(config, TextTokenizer.train(texts, config.vocabulary.text_size), statistics)


def contestant(task: Task, agent: GatoAgent, rows: int, steps: int) -> Callable[[], float]:
    """Environment steps a second over one episode in each of `rows` environments."""

    def play() -> int:
        seeds = evaluation_seeds(rows)
        results = evaluate(
            task.make,
            agent,
            seeds=seeds,
            max_steps=steps,
            batch_size=rows,
            measure=task.measure,
            name=task.name,
        )
        return sum(result.length for result in results)

    def run() -> float:
        played = []
        seconds = 1.0 / timed(lambda: played.append(play()), 1.0)
        return played[0] / seconds

    return run


def main(args: Args) -> None:
    """Measure each task in each layout of tokens."""
    torch.set_num_threads(args.threads)
    repeats, steps = (3, 60) if args.quick else (args.repeats, args.steps)
    rates, ratios, contexts = {}, [], {}
    for name in args.tasks:
        for tokens in args.tokens:
            contexts[tokens] = args.context or CONTEXTS[tokens]
            task, config = registry.task(name), gato_small(tokens=tokens, context=contexts[tokens])
            given = make_model(task, config), task.name, task.observation_space, task.action_space
            agents = {
                "uncached x 1": (UncachedAgent(*given), 1),
                "cached x 1": (GatoAgent(*given), 1),
                f"cached x {args.batch_size}": (GatoAgent(*given), args.batch_size),
            }
            case = f"{name} {tokens}"
            measured = interleaved(
                {
                    f"{case}, {who}": contestant(task, agent, rows, steps)
                    for who, (agent, rows) in agents.items()
                },
                repeats,
            )
            rates |= measured
            uncached, cached, batched = measured
            ratios += [ratio(measured, batched, uncached, target=10.0), ratio(measured, cached, uncached)]
    report("act_speed", "environment steps/s", rates, ratios, args.output, steps=steps, contexts=contexts)


if __name__ == "__main__":
    main(tyro.cli(Args))

"""Environment steps a second while training a teacher: our PQN and DQN beside a plain DQN loop as CleanRL writes it.

    python benchmarks/teacher_speed.py --quick

The plain loop: one environment, a replay of whole observations in numpy, every 4 steps a batch of 32, Adam, squared
error, a target network copied every 1000 steps. It plays the same worlds as ours (`make_vector(name, 1)`: on Atari
ale-py's own vector environment, faster than the wrappers that CleanRL stacks), on the same cores, and its network is
DQN's, without layer norm. Ours run as `factotum train-teacher` runs them, with its defaults. All are measured while
they learn, after their replays have been filled for a while. Ratios are formed within each round.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from _measure import RESULTS, interleaved, ratio, report
from torch import nn

from factotum.recipes.teacher_choice import Changes, configure, make_learner, teacher_network
from factotum.worlds.vector import VectorWorld, make_vector

CPU = torch.device("cpu")
TOTAL = 10_000_000
"""Steps of the training that a piece of is measured; exploration is at its start, so nearly all actions are drawn."""


@dataclass(frozen=True)
class Args:
    """Measure training speed."""

    worlds: tuple[str, ...] = ("minatar/breakout", "minatar/space_invaders", "atari/Pong")
    """what is played"""
    seconds: float = 15.0
    """that each contestant runs for in a round, at least"""
    repeats: int = 5
    """rounds that count"""
    threads: int = 1
    """CPU threads of torch and of Atari"""
    quick: bool = False
    """three rounds of five seconds"""
    output: Path | None = None
    """JSON file; by default benchmarks/results/teacher_speed.json"""


class PlainReplay:
    """Whole observations, before and after, overwritten in turn."""

    def __init__(self, size: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.before, self.after = np.zeros((2, size, *shape), dtype)
        self.action, self.reward = np.zeros(size, np.int64), np.zeros(size, np.float32)
        self.done = np.zeros(size, np.float32)
        self.size, self.place, self.full = size, 0, False

    def add(self, *step: object) -> None:
        """Keep a step."""
        for array, value in zip(
            (self.before, self.after, self.action, self.reward, self.done), step, strict=True
        ):
            array[self.place] = value
        self.place = (self.place + 1) % self.size
        self.full |= self.place == 0

    def sample(self, count: int) -> list[torch.Tensor]:
        """Steps drawn at random."""
        index = np.random.randint(self.size if self.full else self.place, size=count)
        arrays = (self.before, self.after, self.action, self.reward, self.done)
        return [torch.from_numpy(array[index]) for array in arrays]


def plain_network(world: VectorWorld) -> nn.Module:
    """DQN's network, or MinAtar's."""
    channels, height, _ = world.observation_space.shape
    if height == 84:
        layers: list[nn.Module] = [
            *(nn.Conv2d(channels, 32, 8, stride=4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3, stride=1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, int(world.action_space.n))),
        ]
    else:
        layers = [nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.Flatten()]
        layers += [nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, int(world.action_space.n))]
    return nn.Sequential(*layers)


def plain_dqn(name: str, threads: int, starts: int = 1000) -> Iterator[int]:
    """An endless run of the plain loop; yields environment steps once it learns."""
    world = make_vector(name, 1, threads=threads)
    space, actions = world.observation_space, int(world.action_space.n)
    scale = 1 / 255 if space.dtype == np.uint8 else 1.0
    network, target = plain_network(world), plain_network(world)
    target.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    replay = PlainReplay(10_000, space.shape, space.dtype)
    seen, over, step = world.reset(0), False, 0
    while True:
        epsilon = max(0.01, 1 - step / (0.1 * TOTAL))
        if np.random.random() < epsilon:
            action = np.random.randint(actions, size=1)
        else:
            with torch.no_grad():
                action = network(torch.from_numpy(seen) * scale).argmax(1).numpy()
        moved = world.step(action)
        if not over:
            replay.add(
                seen[0], moved.observation[0], action[0], np.clip(moved.reward[0], -1, 1), moved.terminated[0]
            )
        seen, over, step = moved.observation, bool(moved.terminated[0] or moved.truncated[0]), step + 1
        if step < starts:
            continue
        if step % 4 == 0:
            before, after, taken, reward, done = replay.sample(32)
            with torch.no_grad():
                best = target(after * scale).max(1).values
                wanted = reward + 0.99 * best * (1 - done)
            value = network(before * scale).gather(1, taken[:, None])[:, 0]
            loss = F.mse_loss(value, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if step % 1000 == 0:
            target.load_state_dict(network.state_dict())
        yield 1


def ours(name: str, threads: int, folder: Path, algorithm: str, precision: str) -> Iterator[int]:
    """An endless run as `factotum train-teacher` makes it; yields environment steps once it learns."""
    shape = make_vector(name, 1, threads=threads).observation_space.shape
    changes = Changes(precision=precision)  # type: ignore[arg-type]
    if algorithm == "dqn":
        changes = Changes(precision=precision, learning_starts=1000, capacity=100_000)  # type: ignore[arg-type]
    config = configure(algorithm, shape, changes)  # type: ignore[arg-type]
    world = make_vector(name, config.environments, threads=threads)
    network = teacher_network(algorithm, "teacher", world, 0, CPU)  # type: ignore[arg-type]
    replay = folder / f"{name.replace('/', '-')}-{precision}"
    learner = make_learner(config, network, world, steps=TOTAL, seed=0, replay=replay)
    seen, learning = world.reset(0), False
    while True:
        moved = world.step(learner.act(seen))
        learning = bool(learner.observe(moved)) or learning
        seen = moved.observation
        if learning:
            yield world.count


def rate(steps: Iterator[int], seconds: float, whole: int) -> Callable[[], float]:
    """A contestant: environment steps a second, over whole pieces of play so that learning has its share."""

    def run() -> float:
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            count += sum(next(steps) for _ in range(whole))
        return count / (time.perf_counter() - start)

    return run


def main(args: Args) -> None:
    """Measure each world."""
    torch.set_num_threads(args.threads)
    np.random.seed(0)
    torch.manual_seed(0)
    repeats, seconds = (3, 5.0) if args.quick else (args.repeats, args.seconds)
    rates, ratios = {}, []
    with TemporaryDirectory() as folder:
        for name in args.worlds:
            pieces = configure("pqn", make_vector(name, 1).observation_space.shape, Changes()).rollout  # type: ignore[union-attr]
            contestants = {f"{name}: plain DQN": rate(plain_dqn(name, args.threads), seconds, 4)}
            for algorithm in ("pqn", "dqn"):
                for precision in ("fp32", "bf16"):
                    steps = ours(name, args.threads, Path(folder), algorithm, precision)
                    whole = pieces if algorithm == "pqn" else 1
                    contestants[f"{name}: {algorithm.upper()} {precision}"] = rate(steps, seconds, whole)
            rates |= interleaved(contestants, repeats)
            plain, *mine = contestants
            ratios += [ratio(rates, one, plain, target=1.5 if "PQN" in one else None) for one in mine]
    report(
        "teacher_speed", "environment steps/s", rates, ratios, args.output or RESULTS / "teacher_speed.json"
    )


if __name__ == "__main__":
    main(tyro.cli(Args))

"""`factotum quickstart`: the whole job in ten minutes on two cores: collect, train one Gato, evaluate, report."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from factotum.recipes import collect, evaluate, report, train
from factotum.training.config import TrainConfig

DEMONSTRATIONS = {
    "babyai/GoToRedBallGrey": 500,
    "babyai/GoToObj": 500,
    "babyai/OpenRedDoor": 300,
    "metaworld/reach": 60,
    "metaworld/drawer-close": 60,
    "metaworld/button-press-topdown": 60,
    "metaworld/window-open": 60,
    "metaworld/door-close": 60,
    "pixels/GoToObj": 400,
    "pixels/GoToRedBallGrey": 400,
    "gym/CliffWalking": 20,
    "gym/Taxi": 400,
    "gym/CartPole": 10,
    "box2d/LunarLander": 80,
    "scenes/color": 4000,
    "scenes/caption": 6000,
    "digits/name": 1500,
}
"""Episodes of each task: text and grids, vectors, pictures, tables, and questions that are answered in words."""

WEIGHTS = (
    ("gym/*", 0.5),
    ("digits/*", 0.5),
    ("scenes/*", 2.5),
)
"""Easy tasks are drawn less, questions about pictures more; 1 for the others."""

SIZE = train.Size(
    context=128, layers=3, width=192, heads=3, feed_forward=768, text_size=512, bins=256, patch_channels=16
)


@dataclass(frozen=True)
class Args:
    """One Gato for many tasks, from nothing to a report. Run again, it goes on where it stopped."""

    run: Path = Path("runs/quickstart")
    """folder of the run"""
    data: Path = Path("data/quickstart")
    """folder of the demonstrations"""
    steps: int = 4400
    """training steps"""
    episodes: int = 20
    """evaluation episodes a task"""
    seed: int = 0
    """seed of training"""
    threads: int = 0
    """torch's CPU threads, 0 for one a core"""


def main(args: Args) -> int:
    """Collect, train, evaluate, report; 1 if the agent is not better than retrieval."""
    started = time.perf_counter()
    tasks = tuple(DEMONSTRATIONS)
    for episodes in sorted(set(DEMONSTRATIONS.values())):
        names = tuple(name for name in tasks if DEMONSTRATIONS[name] == episodes)
        collect.main(collect.Args(tasks=names, episodes=episodes, data=args.data))
    collected = time.perf_counter()
    train.main(training(args))
    trained = time.perf_counter()
    for agent in ("random", "expert", "retrieve", str(args.run)):
        evaluate.main(
            evaluate.Args(
                agent=agent,
                tasks=tasks,
                episodes=args.episodes,
                data=args.data,
                out=args.run,
                batch=args.episodes,
            )
        )
    report.main(report.Args(run=args.run, title="Quickstart: one Gato, many tasks"))
    ended = time.perf_counter()
    print(
        f"collect {collected - started:.0f} s, train {trained - collected:.0f} s, "
        f"evaluate and report {ended - trained:.0f} s"
    )
    return 0


def training(args: Args) -> train.Args:
    """How the quickstart's model is trained."""
    return train.Args(
        run=args.run,
        data=args.data,
        rows=4,
        target_spread=10.0,
        weights=WEIGHTS,
        size=SIZE,
        training=TrainConfig(
            steps=args.steps,
            learning_rate=1e-3,
            warmup_steps=100,
            weight_decay=0.05,
            precision="bf16",
            log_every=100,
            checkpoint_every=500,
            seed=args.seed,
            threads=args.threads or min(2, os.cpu_count() or 1),
        ),
    )

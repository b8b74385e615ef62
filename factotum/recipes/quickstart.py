"""`factotum quickstart`: the whole job in ten minutes on two cores: collect, train one Gato, evaluate, report."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

from factotum.core.checks import UserError
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
    "scenes/caption": 6000,
    "digits/name": 1500,
}
"""Episodes of each task: text and grids, vectors, pictures, tables, and questions that are answered in words."""

WEIGHTS = (
    ("gym/*", 0.5),
    ("digits/*", 0.5),
    ("babyai/OpenRedDoor", 0.5),
    ("metaworld/*", 1.2),
    ("box2d/*", 1.5),
    ("scenes/*", 3.0),
)
"""Easy tasks are drawn less, motor skills and captions more; 1 for the others."""

BASELINES = ("random", "expert", "retrieve")

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
    steps: int = 2600
    """training steps"""
    episodes: int = 20
    """evaluation episodes a task"""
    seed: int = 0
    """seed of training"""
    threads: int = 1
    """torch's CPU threads in training; a model this small gains nothing from two"""


def main(args: Args) -> None:
    """Collect, train, evaluate, report; where there are two cores, baselines play while the agent learns."""
    tasks, clock = tuple(DEMONSTRATIONS), [time.perf_counter()]
    for episodes in sorted(set(DEMONSTRATIONS.values())):
        names = tuple(name for name in tasks if DEMONSTRATIONS[name] == episodes)
        collect.main(collect.Args(tasks=names, episodes=episodes, data=args.data))
    clock.append(time.perf_counter())
    with beside(play, BASELINES, tasks, args, log=args.run / "baselines.log"):
        train.main(training(args))
        clock.append(time.perf_counter())
    with beside(play, (str(args.run),), tasks[::2], args, log=args.run / "evaluation.log"):
        play((str(args.run),), tasks[1::2], args)
    evaluate.main(evaluation(str(args.run), tasks, args))
    report.main(report.Args(run=args.run, title="Quickstart: one Gato, many tasks"))
    clock.append(time.perf_counter())
    collected, trained, played = (f"{later - earlier:.0f} s" for earlier, later in pairwise(clock))
    print(f"collecting took {collected}, training {trained}, evaluation and report {played}")


def play(agents: Sequence[str], tasks: Sequence[str], args: Args) -> None:
    """Evaluate agents one after another; what is on record is not played again."""
    for agent in agents:
        evaluate.main(evaluation(agent, tasks, args))


def evaluation(agent: str, tasks: Sequence[str], args: Args) -> evaluate.Args:
    """How an agent is evaluated."""
    return evaluate.Args(
        agent=agent,
        tasks=tuple(tasks),
        episodes=args.episodes,
        data=args.data,
        out=args.run,
        batch=10,
        threads=1,
    )


@contextmanager
def beside(work: Callable[..., None], *arguments: object, log: Path) -> Iterator[None]:
    """Do `work` in a process of its own while the block runs, and wait for it; its output goes to `log`.

    Raises:
        UserError: the work failed; the message says where its output is.
    """
    process = get_context("spawn").Process(target=_logged, args=(work, arguments, log), daemon=True)
    process.start()
    yield
    process.join()
    if process.exitcode:
        raise UserError(
            f"a process beside this one failed (exit code {process.exitcode}); its output is in {log}"
        )


def _logged(work: Callable[..., None], arguments: Sequence[object], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            sys.exit(1)


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
            final_learning_rate_ratio=0.02,
            warmup_steps=100,
            weight_decay=0.05,
            precision="bf16",
            log_every=100,
            checkpoint_every=500,
            seed=args.seed,
            threads=args.threads,
        ),
    )

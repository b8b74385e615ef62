"""What each part of the generalist is worth: one change an arm, equal positions of training, several seeds.

    python benchmarks/generalist.py run                                  # every arm, seed 0
    python benchmarks/generalist.py run --arms base scalar --seeds 3 --part 0 2
    python benchmarks/generalist.py table                                # and pictures

Arms: base (5 M, fused tokens, prompts in a quarter of the rows, two DAgger rounds, fixed mixture, AdamW); scalar
tokens; no-prompts; rounds-0 and rounds-1, with the updates of the left-out rounds before; adaptive sampling; size-1m
and size-25m, with base the curve of score against compute; hierarchical-rnn, the learned optimizer as it comes.

All is at `--scale` of the recipe's own length and on a part of its tasks; scores are normalised between random and
expert. A finished arm and seed is one line in `results/generalist/runs.jsonl`; an unfinished one goes on from its
checkpoint: the same command again makes what is missing.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import generalist_results as results
import tyro
from generalist_results import Job

from factotum.core.checks import unknown
from factotum.recipes import generalist
from factotum.recipes.generalist_plan import Plan

TASKS = (
    "babyai/GoToLocal", "babyai/GoToRedBallGrey", "babyai/OpenDoor", "babyai/PickupLoc", "babyai/PutNextLocal",
    "babyai/Synth", "babyai/UnlockPickup", "metaworld/button-press-topdown", "metaworld/door-open",
    "metaworld/drawer-open", "metaworld/pick-place", "metaworld/push", "metaworld/reach", "gym/FrozenLake",
    "gym/FrozenLakeFirm", "gym/FrozenLake8x8", "gym/Taxi", "gym/Pendulum", "box2d/LunarLander", "mujoco/Reacher",
    "scenes/caption", "scenes/color", "digits/name", "pixels/GoToRedBall", "pixels/PickupDist",
)  # fmt: skip
"""Some of every family but Atari, whose expert is slow."""

ARMS: dict[str, dict[str, Any]] = {
    "base": {},
    "scalar": {"tokens": "scalar"},
    "no-prompts": {"prompt_share": 0.0},
    "rounds-0": {"rounds": 0},
    "rounds-1": {"rounds": 1},
    "adaptive": {"adaptivity": 0.5},
    "size-1m": {"size": "1m"},
    "size-25m": {"size": "25m"},
    "hierarchical-rnn": {"optimizer": "hierarchical-rnn"},
}
"""What each changes of the recipe's arguments."""


def arguments(
    job: Job, work: Path, tasks: tuple[str, ...], scale: float, episodes: int, threads: int
) -> generalist.Args:
    """The recipe of one arm: whatever its size and rounds, as many positions as the base."""
    folder = work / job.name
    common = generalist.Args(
        run=folder / "run", data=folder / "data", tasks=tasks, scale=scale, episodes=max(1, round(episodes / scale)),
        baselines=(), seed=job.seed, threads=threads, stages=("train", "dagger", "evaluate"), **ARMS[job.arm],
    )  # fmt: skip
    base = generalist.make_plan(generalist.Args(scale=scale))
    context = generalist.make_plan(common).setting.size.config().context
    common = replace(common, rows=max(1, _positions(base) // context))
    own = generalist.make_plan(common)
    total = (base.steps + base.rounds * base.round_steps) * _positions(base) // _positions(own)
    each = base.round_steps * _positions(base) // _positions(own)
    return replace(common, steps=total - own.rounds * each, round_steps=each)


def _positions(plan: Plan) -> int:
    """Of one update."""
    return plan.rows * plan.size.config().context


def run(
    arms: tuple[str, ...] = tuple(ARMS),
    seeds: int = 1,
    scale: float = 0.1,
    episodes: int = 50,
    tasks: tuple[str, ...] = TASKS,
    work: Path = Path("runs/generalist-arms"),
    output: Path = results.RESULTS,
    part: tuple[int, int] = (0, 1),
    threads: int = 1,
) -> None:
    """Train and evaluate what is missing.

    Args:
        arms: by name.
        seeds: of each arm.
        scale: of the recipe's episodes and updates.
        episodes: evaluation episodes a task.
        tasks: trained on and evaluated.
        work: folder of runs and data.
        output: folder of the results.
        part: (i, n): every n-th job from the i-th on, for several processes.
        threads: torch's.
    """
    for arm in arms:
        if arm not in ARMS:
            raise unknown("arm", arm, ARMS)
    shared = generalist.Args(
        run=work / "shared", data=work / "data", tasks=tasks, scale=scale, stages=("collect",)
    )
    generalist.main(shared)
    jobs, done = [Job(arm, seed) for seed in range(seeds) for arm in arms], results.load(output)
    for job in jobs[part[0] :: part[1]]:
        if job not in done:
            print(f"arm {job.arm}, seed {job.seed}")
            args = arguments(job, work, tasks, scale, episodes, threads)
            link(shared.data, args.data)
            link(generalist.make_plan(shared).left_out_data, generalist.make_plan(args).left_out_data)
            began = time.perf_counter()
            generalist.main(args)
            results.add(output, job, generalist.make_plan(args), scale, time.perf_counter() - began)


def link(source: Path, target: Path) -> None:
    """Give an arm the shared demonstrations without copying them: its own rounds lie beside them.

    Datasets are never changed in place, so that two names of one file stay two datasets.
    """
    if source.is_dir() and not target.is_dir():
        temporary = target.with_name(f"{target.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        leave = shutil.ignore_patterns(".columns", ".collect")
        shutil.copytree(source, temporary, copy_function=os.link, ignore=leave)
        temporary.rename(target)


def table(output: Path = results.RESULTS) -> None:
    """Print what was asked beside what was measured, and draw the scaling curve."""
    results.table(output)
    results.draw(output)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "table": table}, description=__doc__)

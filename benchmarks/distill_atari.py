"""Policy distillation on Atari: teachers of a quarter of DQN's size, students of that size and of the paper's smaller.

    python benchmarks/distill_atari.py teach --games Pong Freeway Breakout
    python benchmarks/distill_atari.py run --games Pong
    python benchmarks/distill_atari.py table
    python benchmarks/distill_atari.py ship

Made for two CPU cores: teachers have the layers of the paper's net1 (with layer norm) and learn by PQN; students have
net1's (the same size), net2's and net3's. The protocol is the paper's but for its human starts, which were never
published: up to 30 no-ops, epsilon 0.05, unclipped whole games of at most 27,000 steps. All of it goes on where it was.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distill_plots
import distill_results as results
import tyro
from distill import finished, make_students, require_policies
from distill_results import Job

from factotum.core.checks import unknown
from factotum.recipes import distill, train_teacher
from factotum.recipes.distill_play import PlayConfig
from factotum.recipes.distill_schedule import Schedule
from factotum.recipes.distill_train import Learning
from factotum.recipes.teacher_choice import Changes

GAMES = ("Pong", "Freeway", "Breakout")

ARMS: dict[str, dict[str, Any]] = {
    "kl-same": {"student": "net1"},
    "nll-same": {"student": "net1", "loss": "nll"},
    "mse-same": {"student": "net1", "loss": "mse"},
    "kl-net2": {"student": "net2"},
    "kl-net3": {"student": "net3"},
}
RESULTS = results.RESULTS / "atari"

SCHEDULE = Schedule(hours=10, scale=0.5, updates_per_hour=3000)
"""Ten hours of half the paper's play, 1,500 updates in each, of 128 rows in place of 32."""


def teach(
    teachers: Path = Path("runs/atari-teachers"),
    games: tuple[str, ...] = GAMES,
    seeds: int = 1,
    steps: int = 4_000_000,
    time_limit_s: float | None = None,
) -> None:
    """Train the teachers that are missing, TEACHERS/GAME-SEED.

    Args:
        teachers: their folder.
        games: of Atari.
        seeds: of each game.
        steps: environment steps, of four frames.
        time_limit_s: seconds after which a teacher writes a checkpoint and stops.
    """
    for seed in range(seeds):
        for game in games:
            run = teachers / f"{game}-{seed}"
            if not finished(run):
                train_teacher.main(
                    train_teacher.Args(
                        name=f"atari/{game}", out=run, network="net1", seed=seed, steps=steps, threads=1, episodes=16,
                        device="cpu", time_limit_s=time_limit_s, settings=Changes(precision="bf16"),
                    )
                )  # fmt: skip


def run(
    teachers: Path = Path("runs/atari-teachers"),
    out: Path = Path("runs/atari-students"),
    arms: tuple[str, ...] = tuple(ARMS),
    games: tuple[str, ...] = GAMES,
    seeds: int = 1,
    students: int = 1,
    schedule: Schedule = SCHEDULE,
    episodes: int = 100,
    keep: bool = False,
    results_folder: Path = RESULTS,
) -> None:
    """Make the students that are missing.

    Args:
        teachers: folder with GAME-SEED, runs of `factotum train-teacher`.
        out: folder of the students' runs.
        arms: any of those above.
        games: of Atari.
        seeds: of teachers.
        students: seeds of students of each teacher.
        schedule: hours, their steps and updates.
        episodes: that student and teacher are measured on.
        keep: leave replays and checkpoints of finished students in place.
        results_folder: where the lines go.
    """
    todo = jobs(arms, games, seeds, students)

    def asked(job: Job) -> distill.Args:
        return arguments(job, teachers, out / job.name, schedule, episodes)

    make_students(todo, asked, out, results_folder, keep)


def jobs(arms: Sequence[str], games: Sequence[str], seeds: int, students: int) -> list[Job]:
    """All students, the first seed of every arm first.

    >>> [job.name for job in jobs(("kl-net3",), ("Pong",), 1, 1)]
    ['kl-net3.Pong.t0.s0']
    """
    for arm in arms:
        if arm not in ARMS:
            raise unknown("arm", arm, ARMS)
    seeded = [(seed, student) for student in range(students) for seed in range(seeds)]
    return [Job(arm, game, *pair) for pair in seeded for arm in arms for game in games]


def arguments(job: Job, teachers: Path, folder: Path, schedule: Schedule, episodes: int) -> distill.Args:
    """What `factotum distill` is asked for a student.

    Raises:
        UserError: its teacher is missing.
    """
    arm, teacher = ARMS[job.arm], teachers / f"{job.game}-{job.teacher}"
    require_policies([teacher])
    return distill.Args(
        teachers=(str(teacher),),
        student=arm["student"],
        out=folder,
        loss=distill.Loss(loss=arm.get("loss")),
        schedule=schedule,
        play=PlayConfig(environments=32, threads=1),
        learning=Learning(
            rows=128,
            learning_rate=1e-3,
            final_learning_rate_ratio=0.02,
            precision="bf16",
            seed=job.seed,
            device="cpu",
        ),
        episodes=episodes,
        shared_scores=folder.parent / "shared",
    )


def ship(
    teachers: Path = Path("runs/atari-teachers"),
    students: Path = Path("runs/atari-students"),
    out: Path = Path("checkpoints/atari"),
    seed: int = 0,
    results_folder: Path = RESULTS,
) -> None:
    """Copy a seed's teachers and students into OUT, in half precision, with cards of what they scored.

    Args:
        teachers: their folder.
        students: folder of the students' runs.
        out: gets a folder for each, GAME-teacher or GAME-ARM.
        seed: of the teachers.
        results_folder: where the students' lines are.
    """
    rows = results.load(results_folder)
    games = sorted({job.game for job in rows})
    results.ship(rows, games, teachers, students, out, seed, "benchmarks/distill_atari.py")


def table(results_folder: Path = RESULTS) -> None:
    """Print what was measured, each game beside its teacher.

    Args:
        results_folder: where the lines are.
    """
    results.table(results_folder)


def plot(out: Path = Path("docs/pictures/distill-atari.png"), results_folder: Path = RESULTS) -> None:
    """Draw what was measured: scores over the teachers', by size and by arm.

    Args:
        out: the picture.
        results_folder: where the lines are.
    """
    distill_plots.draw(results.load(results_folder), ("kl-net3", "kl-net2", "kl-same"), out)
    print(out)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"teach": teach, "run": run, "table": table, "plot": plot, "ship": ship}
    )

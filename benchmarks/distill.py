"""Policy distillation on MinAtar: five games, several seeds of teachers and of students, every setting of the paper.

    python benchmarks/distill.py teach --teachers runs/minatar-teachers            # 5 games x 5 seeds
    python benchmarks/distill.py run --teachers runs/minatar-teachers              # every arm
    python benchmarks/distill.py run --teachers runs/minatar-teachers --arms kl-4 multi-kl --part 0 2
    python benchmarks/distill.py table
    python benchmarks/distill.py ship                                              # into checkpoints/minatar

Arms: KL, NLL and MSE at the teacher's size (kl-100, nll-100, mse-100); KL at 25, 7 and 4 % (kl-25, kl-7, kl-4), the
last also labelled on its own play (kl-4-dagger); one network for all games (multi-kl, multi-nll) beside Multi-DQN from
as many frames (multi-dqn); and a student of a teacher that still learns (online-kl). Every student plays the starts
that its teacher plays. Finished students are one line each in `results/distill/runs.jsonl`, unfinished ones go on from
their checkpoint: the same command again makes what is missing.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import distill_plots
import distill_results as results
import tyro
from distill_results import Job

from factotum.core.checks import UserError, unknown
from factotum.distill.store import find_policy
from factotum.recipes import distill, train_teacher
from factotum.recipes.distill_play import PlayConfig
from factotum.recipes.distill_schedule import Schedule
from factotum.recipes.distill_train import Learning, play_seconds
from factotum.training.metrics import read_metrics

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
SINGLE: dict[str, dict[str, Any]] = {
    "kl-100": {"student": "teacher"},
    "nll-100": {"student": "teacher", "loss": "nll"},
    "mse-100": {"student": "teacher", "loss": "mse"},
    "kl-25": {"student": "net1"},
    "kl-7": {"student": "net2"},
    "kl-4": {"student": "net3"},
    "kl-4-dagger": {"student": "net3", "acting": "mixed"},
    "online-kl": {"student": "teacher", "online": True},
}
"""One game a student."""

TOGETHER: dict[str, dict[str, Any]] = {
    "multi-kl": {"student": "multitask-3"},
    "multi-nll": {"student": "multitask-3", "loss": "nll"},
    "multi-dqn": {"student": "multitask-3", "baseline": "multi-dqn"},
}
"""All games one student."""


def teach(
    teachers: Path = Path("runs/minatar-teachers"),
    games: tuple[str, ...] = GAMES,
    seeds: int = 5,
    steps: int = 1_000_000,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Train the teachers that are missing, TEACHERS/GAME-SEED.

    Args:
        teachers: their folder.
        games: of MinAtar.
        seeds: of each game.
        steps: environment steps, half of `factotum train-teacher`'s own number.
        part: (i, n): every n-th teacher from the i-th on, for several processes.
    """
    jobs = [(game, seed) for seed in range(seeds) for game in games]
    for game, seed in jobs[part[0] :: part[1]]:
        run = teachers / f"{game}-{seed}"
        if not finished(run):
            print(f"teacher {run}", flush=True)
            train_teacher.main(
                train_teacher.Args(
                    name=f"minatar/{game}", out=run, seed=seed, steps=steps, threads=1, device="cpu"
                )
            )


def finished(run: Path) -> bool:
    """Whether a teacher was trained and measured."""
    return find_policy(run) is not None and (run / "evaluation.json").is_file()


def require_policies(runs: Sequence[Path]) -> None:
    """Refuse to begin without teachers.

    Raises:
        UserError: one is missing.
    """
    for teacher in runs:
        if find_policy(teacher) is None:
            raise UserError(f"teachers: expected a policy in {teacher}, found none; `teach` makes it")


def run(
    teachers: Path = Path("runs/minatar-teachers"),
    out: Path = Path("runs/minatar-students"),
    arms: tuple[str, ...] = (*SINGLE, *TOGETHER),
    games: tuple[str, ...] = GAMES,
    seeds: int = 5,
    students: int = 1,
    hours: int = 10,
    scale: float = 0.1,
    steps_per_hour: int = 540_000,
    episodes: int = 100,
    part: tuple[int, int] = (0, 1),
    keep: bool = False,
    results_folder: Path = results.RESULTS,
) -> None:
    """Make the students that are missing.

    Args:
        teachers: folder with GAME-SEED, runs of `factotum train-teacher`.
        out: folder of the students' runs.
        arms: any of those above.
        games: any of MinAtar's; one network of several is of exactly these.
        seeds: of teachers.
        students: seeds of students of each teacher.
        hours: of the schedule.
        scale: share of an hour's steps and updates.
        steps_per_hour: of play; ten times the paper's, since MinAtar plays faster than a network learns.
        episodes: of each game that student and teacher are measured on.
        part: (i, n): every n-th student from the i-th on, for several processes.
        keep: leave replays and checkpoints of finished students in place.
        results_folder: where the lines go.
    """
    schedule = Schedule(hours=hours, scale=scale, steps_per_hour=steps_per_hour)
    todo = jobs(arms, games, seeds, students)[part[0] :: part[1]]

    def asked(job: Job) -> distill.Args:
        return arguments(job, teachers, out / job.name, games, schedule, episodes)

    make_students(todo, asked, out, results_folder, keep)


def make_students(
    todo: Sequence[Job], asked: Callable[[Job], distill.Args], out: Path, results_folder: Path, keep: bool
) -> None:
    """Make those of which there is no line; what only a run that goes on needs is removed unless it is to be kept."""
    for number, job in enumerate(todo):
        if job in results.load(results_folder):
            continue
        print(f"\n{job.name} ({number + 1} of {len(todo)})", flush=True)
        started, folder = time.perf_counter(), out / job.name
        evaluation = distill.main(asked(job))
        results.add(results_folder, job, evaluation, _seconds(folder, time.perf_counter() - started))
        if not keep:
            for name in ("play", "checkpoints", "teachers"):
                shutil.rmtree(folder / name, ignore_errors=True)


def _seconds(folder: Path, whole: float) -> dict[str, float]:
    """Of updates, play, and (in this process alone) all else, which is evaluation for the most part."""
    timed = [line["timing"]["seconds"] for line in read_metrics(folder) if "timing" in line]
    learning, playing = (timed or [0.0])[-1], play_seconds(folder)
    return {"updates": learning, "play": playing, "other": max(0.0, whole - learning - playing)}


def jobs(arms: Sequence[str], games: Sequence[str], seeds: int, students: int) -> list[Job]:
    """All students, the first seed of every arm first.

    >>> [job.name for job in jobs(("kl-4", "multi-kl"), ("breakout",), 1, 1)]
    ['kl-4.breakout.t0.s0', 'multi-kl.all.t0.s0']
    """
    found = []
    for arm in arms:
        if arm not in SINGLE and arm not in TOGETHER:
            raise unknown("arm", arm, (*SINGLE, *TOGETHER))
    for student in range(students):
        for seed in range(seeds):
            for arm in arms:
                found += [Job(arm, game, seed, student) for game in (games if arm in SINGLE else ("all",))]
    return found


def arguments(
    job: Job, teachers: Path, folder: Path, games: Sequence[str], schedule: Schedule, episodes: int
) -> distill.Args:
    """What `factotum distill` is asked for a student.

    Raises:
        UserError: a teacher is missing.
    """
    arm = {**SINGLE, **TOGETHER}[job.arm]
    runs = [teachers / f"{game}-{job.teacher}" for game in (games if job.game == "all" else (job.game,))]
    require_policies(runs)
    online = arm.get("online", False)
    return distill.Args(
        teachers=() if online else tuple(map(str, runs)),
        online=tuple(runs) if online else (),
        online_pace="replayed",
        student=arm["student"],
        out=folder,
        loss=distill.Loss(loss=arm.get("loss")),
        schedule=schedule,
        play=PlayConfig(acting=arm.get("acting", "teacher"), environments=64, threads=1),
        learning=Learning(
            rows=512,
            learning_rate=1e-2,
            warmup=0.1,
            final_learning_rate_ratio=0.02,
            precision="bf16",
            seed=job.seed,
            device="cpu",
        ),
        baseline=arm.get("baseline", "none"),
        episodes=episodes,
        score_every=max(1, schedule.hours // 10) if online else 0,
        shared_scores=folder.parent / "shared",
    )


def ship(
    teachers: Path = Path("runs/minatar-teachers"),
    students: Path = Path("runs/minatar-students"),
    out: Path = Path("checkpoints/minatar"),
    seed: int = 0,
    results_folder: Path = results.RESULTS,
) -> None:
    """Copy a seed's teachers and single-game students into OUT, in half precision, with cards of what they scored.

    Args:
        teachers: their folder.
        students: folder of the students' runs.
        out: gets a folder for each, GAME-teacher or GAME-ARM.
        seed: of the teachers.
        results_folder: where the students' lines are.
    """
    rows = {job: row for job, row in results.load(results_folder).items() if job.arm in SINGLE}
    results.ship(rows, GAMES, teachers, students, out, seed, "benchmarks/distill.py")


def table(results_folder: Path = results.RESULTS) -> None:
    """Print what was asked beside what was measured.

    Args:
        results_folder: where the lines are.
    """
    results.table(results_folder)


def plot(
    out: Path = Path("docs/pictures/distill-minatar.png"), results_folder: Path = results.RESULTS
) -> None:
    """Draw what was measured: scores over the teachers', by size and by arm.

    Args:
        out: the picture.
        results_folder: where the lines are.
    """
    distill_plots.draw(results.load(results_folder), ("kl-4", "kl-7", "kl-25", "kl-100"), out)
    print(out)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"teach": teach, "run": run, "table": table, "plot": plot, "ship": ship}
    )

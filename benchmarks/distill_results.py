"""Results of `distill.py` and `distill_atari.py`: a line a finished student, and tables over seeds.

A student is known by its arm, its game ("all" for one network of all games), the seed of its teachers and its own.
Seeds are two levels: students of the same teacher differ by `student`. Of runs that are not all there, each game's
numbers are over the largest set of teachers that have equally many students.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from factotum.core.checks import UserError
from factotum.core.files import append_json_line, read_json, read_json_lines
from factotum.distill.store import load_policy, save_policy
from factotum.training import paired
from factotum.training.paired import Paired

RESULTS = Path(__file__).parent / "results" / "distill"
RUNS = "runs.jsonl"

ASKED = {
    "kl-100": "≥ 100 %", "kl-25": "≥ 100 %", "kl-7": "≥ 97 %", "kl-4": "≥ 84 %", "multi-kl": "≥ 89 %",
    "nll-100": "below KL", "mse-100": "below NLL", "multi-dqn": "below the students", "kl-same": "≥ 100 %",
    "nll-same": "below KL", "mse-same": "below NLL",
}  # fmt: skip
"""What was asked of the geometric mean of scores over the teachers'."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One student to be made.

    >>> Job("kl-4", "breakout", 2, 0).name
    'kl-4.breakout.t2.s0'
    """

    arm: str
    game: str
    teacher: int
    student: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}.{self.game}.t{self.teacher}.s{self.student}"

    @property
    def seed(self) -> int:
        """Of its first weights, its play and its minibatches."""
        return 1000 * self.teacher + self.student


def load(folder: Path) -> dict[Job, Row]:
    """All finished students; of one that was made again the last."""
    rows = read_json_lines(folder / RUNS)
    return {Job(row["arm"], row["game"], row["teacher"], row["student"]): row for row in rows}


def add(folder: Path, job: Job, evaluation: dict[str, Any], seconds: dict[str, float]) -> None:
    """Note a finished student; where its teachers lie is left out."""
    games = [
        {key: value for key, value in game.items() if key not in ("teacher", "random_episodes_shared")}
        for game in evaluation["games"]
    ]
    versions = [[task, version] for task, _, version in evaluation["of"]["teachers"]]
    row = {**vars(job), "of": {**evaluation["of"], "teachers": versions}}
    row["parameters"] = evaluation["student"]["parameters"]
    row |= {"latency_ms": evaluation["student"]["latency_ms"], "seconds": seconds, "games": games}
    append_json_line(folder / RUNS, row)


def ship(
    rows: dict[Job, Row],
    games: Sequence[str],
    teachers: Path,
    students: Path,
    out: Path,
    seed: int,
    script: str,
) -> None:
    """Policies in half precision with cards of what they scored: a seed's teachers, and their first students.

    Args:
        rows: finished students of one game each.
        games: whose teachers.
        teachers: folder with GAME-SEED.
        students: folder of the students' runs.
        out: gets a folder for each, GAME-teacher or GAME-ARM.
        seed: of the teachers.
        script: that made them.
    """
    for game in games:
        score = read_json(teachers / f"{game}-{seed}" / "evaluation.json")
        made_by = {
            "system": "teacher (PQN)", "command": f"python {script} teach", "seed": seed,
            "environment steps": score["step"], "score in 100 games": round(score["policy"]["mean"], 2),
            "score of random play": round(score["random"]["mean"], 2),
        }  # fmt: skip
        save_policy(load_policy(teachers / f"{game}-{seed}"), out / f"{game}-teacher", made_by, half=True)
    for job, row in rows.items():
        if job.teacher == seed and job.student == 0:
            (played,) = row["games"]
            made_by = {
                "system": "policy distillation", "command": f"python {script} run --arms {job.arm}",
                "seed": job.seed, "teacher": f"{job.game}-teacher, single precision",
                **{
                    f"score of the {who}, before rounding": round(float(np.mean(played[f"{who}_scores"])), 2)
                    for who in ("student", "teacher")
                },
            }  # fmt: skip
            save_policy(load_policy(students / job.name), out / f"{job.game}-{job.arm}", made_by, half=True)


def scores(rows: dict[Job, Row], arm: str) -> list[Paired]:
    """An arm's scores of each game, over the seeds of teachers and students that are there in full.

    >>> scores({}, "kl-100")
    []
    """
    found: dict[str, dict[tuple[int, int], Row]] = {}
    for job, row in rows.items():
        if job.arm == arm:
            for game in row["games"]:
                found.setdefault(game["task"], {})[job.teacher, job.student] = game
    return [_paired(task, runs) for task, runs in sorted(found.items())]


def _paired(task: str, runs: dict[tuple[int, int], Row]) -> Paired:
    """The largest rectangle: teachers by how many students they have, students by their number."""
    students = {
        teacher: sorted(s for t, s in runs if t == teacher) for teacher in sorted({t for t, _ in runs})
    }
    options = [
        [(t, own[:count]) for t, own in students.items() if len(own) >= count]
        for count in range(1, max(map(len, students.values())) + 1)
    ]
    chosen = max(options, key=lambda option: sum(len(own) for _, own in option))
    random = [runs[t, s]["random_scores"] for t, own in chosen for s in own]
    return Paired(
        task,
        np.array([[runs[t, s]["student_scores"] for s in own] for t, own in chosen]),
        np.array([runs[t, own[0]]["teacher_scores"] for t, own in chosen]),
        random=float(np.mean(random)),
    )


def table(folder: Path, repetitions: int = 2000) -> None:
    """Print asked beside measured, then each game's ratio."""
    rows = load(folder)
    if not rows:
        raise UserError(f"expected finished students in {folder / RUNS}, found none")
    arms = list(dict.fromkeys(job.arm for job in rows))
    arms.sort(key=lambda arm: list(ASKED).index(arm) if arm in ASKED else len(ASKED))
    console = Console(width=200, highlight=False)
    console.print(_asked_and_measured(rows, arms, repetitions))
    console.print(_games(rows, arms))
    console.print(_agreement(rows, arms))


def _asked_and_measured(rows: dict[Job, Row], arms: Sequence[str], repetitions: int) -> Table:
    head = (
        "arm", "asked", "geometric mean", "over teachers", "over students", "above random", "IQM of runs", "parameters",
        "games", "runs", "min/run",
    )  # fmt: skip
    out = Table(*head, box=box.SIMPLE, title="Students over teachers, per cent; 95 % intervals over seeds")
    for arm in arms:
        games = scores(rows, arm)
        own = [row for job, row in rows.items() if job.arm == arm]

        def interval(statistic: paired.Statistic, over: tuple[paired.Level, ...] = paired.SEEDS) -> str:
            return _interval(paired.seed_bootstrap(games, statistic, over=over, repetitions=repetitions))  # noqa: B023

        ratio = paired.geometric_mean_ratio
        out.add_row(
            arm,
            ASKED.get(arm, "–"),
            f"{_percent(ratio(games))} {interval(ratio)}",
            interval(ratio, ("teachers",)),
            interval(ratio, ("students",)) if games[0].student_KJN.shape[1] > 1 else "one student",
            f"{_percent(paired.geometric_mean_normalised(games))} {interval(paired.geometric_mean_normalised)}",
            f"{_percent(paired.interquartile_ratio(games))} {interval(paired.interquartile_ratio)}",
            f"{np.mean([row['parameters'] for row in own]):,.0f}",
            str(len(games)),
            str(len(own)),
            f"{np.mean([sum(row['seconds'].values()) for row in own]) / 60:.1f}",
        )
    return out


def _games(rows: dict[Job, Row], arms: Sequence[str]) -> Table:
    tasks = sorted({game["task"] for row in rows.values() for game in row["games"]})
    head = [name for task in tasks for name in (task.partition("/")[2], "")]
    out = Table(
        "arm",
        *head,
        box=box.SIMPLE,
        title="Score / teacher's score, and their ratio with its interval over seeds",
    )
    for arm in arms:
        cells = []
        found = {game.game: game for game in scores(rows, arm)}
        for task in tasks:
            game = found.get(task)
            if game is None:
                cells += ["–", ""]
                continue
            bounds = paired.seed_bootstrap([game], lambda one: paired.score_ratio(one[0]), repetitions=1000)
            cells += [
                f"{game.student_KJN.mean():.1f}/{game.teacher_KN.mean():.1f}",
                f"{_percent(paired.score_ratio(game))} {_interval(bounds)}",
            ]
        out.add_row(arm, *cells)
    return out


def _agreement(rows: dict[Job, Row], arms: Sequence[str]) -> Table:
    out = Table(
        "arm", "teachers' states", "students' states", box=box.SIMPLE, title="Agreement with the teacher"
    )
    for arm in arms:
        games = [game for job, row in rows.items() if job.arm == arm for game in row["games"]]
        means = [
            np.mean([game[f"agreement_on_{who}_states"] for game in games]) for who in ("teacher", "student")
        ]
        out.add_row(arm, *map(_percent, means))
    return out


def _percent(value: float) -> str:
    return "undefined" if not np.isfinite(value) else f"{100 * value:.1f}"


def _interval(bounds: tuple[float, float]) -> str:
    if not np.isfinite(bounds).all():
        return ""
    return "one seed" if bounds[0] == bounds[1] else f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"

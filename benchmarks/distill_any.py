"""Any teacher: Stable-Baselines3's models, BabyAI's bot and Meta-World's scripted policies become small networks.

    python benchmarks/distill_any.py run
    python benchmarks/distill_any.py table

The models of Stable-Baselines3 are made by `train_stable_baselines.py`, in an environment of their own; here their
archives are read without that library. Each case is what `factotum distill` does with the options in `CASES`. Student,
teacher and random play begin each episode from the same start, without random actions in between. Finished students
are one line each in `results/distill/any.jsonl`: the same command again makes what is missing.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from distill_results import RESULTS
from rich import box
from rich.console import Console
from rich.table import Table

from factotum.core.checks import UserError, unknown
from factotum.core.files import append_json_line, read_json_lines
from factotum.distill import PolicyAgent, load_policy
from factotum.recipes import distill
from factotum.recipes.distill_play import PlayConfig
from factotum.recipes.distill_schedule import Schedule
from factotum.recipes.distill_train import Learning
from factotum.training import paired
from factotum.training.evaluate import evaluation_seeds
from factotum.training.paired import Paired
from factotum.worlds.suites import metaworld

FILE = "any.jsonl"
ASKED = 0.95
EVALUATION_SEED = 2

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One teacher and what is made of it.

    Args:
        teacher: "expert" for the world's own, else an archive in the folder of teachers.
        world: its world.
        student: size.
        schedule: of play and updates.
        standardise: the student's observations.
        play: who plays.
        learning: how the student is updated.
        episodes: of the evaluation.
        sample: the student draws from its policy in evaluation.
    """

    teacher: str
    world: str
    student: str
    schedule: dict[str, Any]
    standardise: bool = False
    play: dict[str, Any] = field(default_factory=dict)
    learning: dict[str, Any] = field(default_factory=dict)
    episodes: int = 100
    sample: bool = False


GYM: dict[str, Any] = {
    "schedule": {"hours": 5, "scale": 0.1},
    "learning": {"rows": 128, "learning_rate": 2e-3},
}
BABYAI: dict[str, Any] = {
    "schedule": {"hours": 48, "scale": 0.1, "updates_per_hour": 5_000, "replay_hours": 48},
    "play": {"acting": "mixed", "teacher_share": 0.25, "epsilon": 0.02},
    "learning": {"rows": 128, "learning_rate": 2e-3, "warmup": 0.02},
    "sample": True,  # the bot knows more than one view shows: always the same answer may go in circles
}
METAWORLD: dict[str, Any] = {
    "schedule": {"hours": 6, "scale": 0.05, "replay_hours": 16},
    "standardise": True,
    "play": {"acting": "mixed", "teacher_share": 0.5, "environments": 8},
    "learning": {"rows": 256, "learning_rate": 3e-3},
    "episodes": 50,
}
PUSH = {**METAWORLD, "schedule": {"hours": 16, "scale": 0.05, "replay_hours": 16}}

CASES = {
    "cartpole-ppo": Case("ppo-CartPole-v1.zip", "gym/CartPole-v1", "mlp-16", **GYM),
    "lunarlander-ppo": Case("ppo-LunarLander-v3.zip", "gym/LunarLander-v3", "mlp-32", **GYM),
    "babyai-gotoredball": Case("expert", "babyai/GoToRedBall", "cnn-64x1-16x3-128", **BABYAI),
    "babyai-gotolocal": Case("expert", "babyai/GoToLocal", "cnn-64x1-16x3-128", **BABYAI),
    "babyai-pickuploc": Case("expert", "babyai/PickupLoc", "cnn-64x1-16x3-128", **BABYAI),
    "metaworld-reach": Case("expert", "metaworld/reach", "mlp-128-128", **METAWORLD),
    "metaworld-push": Case("expert", "metaworld/push", "mlp-128-128", **PUSH),
    "metaworld-button-press": Case("expert", "metaworld/button-press", "mlp-128-128", **METAWORLD),
    "metaworld-drawer-open": Case("expert", "metaworld/drawer-open", "mlp-128-128", **METAWORLD),
}


def run(
    cases: tuple[str, ...] = tuple(CASES),
    teachers: Path = Path("runs/stable-baselines"),
    out: Path = Path("runs/any-students"),
    seeds: int = 3,
    return_episodes: int = 10,
    keep: bool = False,
    results_folder: Path = RESULTS,
) -> None:
    """Make the students that are missing.

    Args:
        cases: any of those above.
        teachers: folder with the archives of Stable-Baselines3.
        out: folder of the students' runs.
        seeds: students of each teacher.
        return_episodes: whole episodes of 500 steps in which Meta-World's shaped rewards are summed, of the first seed.
        keep: leave replays and checkpoints of finished students in place.
        results_folder: where the lines go.
    """
    for name in cases:
        if name not in CASES:
            raise unknown("case", name, CASES)
    for seed in range(seeds):
        for name in cases:
            if (name, seed) in load(results_folder):
                continue
            print(f"\n{name}, seed {seed}", flush=True)
            folder, started = out / f"{name}.s{seed}", time.perf_counter()
            evaluation = distill.main(arguments(CASES[name], teachers, folder, seed))
            row = line(name, seed, evaluation, time.perf_counter() - started)
            if CASES[name].world.startswith("metaworld/") and seed == 0 and return_episodes:
                row["returns"] = returns(CASES[name].world, folder, return_episodes)
            append_json_line(results_folder / FILE, row)
            if not keep:
                for part in ("play", "checkpoints"):
                    shutil.rmtree(folder / part, ignore_errors=True)


def arguments(case: Case, teachers: Path, folder: Path, seed: int) -> distill.Args:
    """What `factotum distill` is asked for a student.

    Raises:
        UserError: a teacher is missing.
    """
    source = case.teacher if case.teacher == "expert" else str(teachers / case.teacher)
    if source != "expert" and not Path(source).is_file():
        raise UserError(f"teachers: expected {source}, found none; train_stable_baselines.py makes it")
    return distill.Args(
        teachers=(source,),
        worlds=(case.world,),
        student=case.student,
        standardise=case.standardise,
        out=folder,
        schedule=Schedule(**case.schedule),
        play=PlayConfig(**{"threads": 1, **case.play}),
        learning=Learning(seed=seed, device="cpu", **case.learning),
        episodes=case.episodes,
        evaluation_epsilon=0.0,
        evaluation_sample=case.sample,
        evaluation_environments=10
        if case.world.startswith("metaworld/")
        else 50,  # each has meshes of its own
        evaluation_seed=EVALUATION_SEED,
        shared_scores=folder.parent / "shared",
    )


def line(name: str, seed: int, evaluation: Row, seconds: float) -> Row:
    """What is noted of a student; seconds are those of the command that finished it."""
    (game,) = evaluation["games"]
    scores = {key: game[key] for key in ("student_scores", "teacher_scores", "random_scores")}
    alike = {key: value for key, value in game.items() if key.startswith(("agreement", "distance"))}
    return {
        "case": name,
        "seed": seed,
        "world": game["task"],
        "teacher": [game["teacher"], game["teacher_version"]],
        "student": CASES[name].student,
        "settings": {
            part: getattr(CASES[name], part)
            for part in ("schedule", "standardise", "play", "learning", "episodes", "sample")
        },
        "parameters": evaluation["student"]["parameters"],
        "teacher_parameters": game["teacher_parameters"],
        "seconds": seconds,
        **alike,
        **scores,
    }


def returns(world: str, folder: Path, episodes: int) -> dict[str, list[float]]:
    """Sums of Meta-World's own rewards over whole episodes that go on after success, of student and scripted policy.

    In `factotum`'s tasks an episode ends with success: there a slower policy would be paid more.
    """
    name = world.partition("/")[2]
    env, agent = metaworld.make(name).env, PolicyAgent(load_policy(folder), epsilon=0.0)

    def student() -> Callable[[np.ndarray], np.ndarray]:
        return lambda state: agent.act(state[None])[0]

    def teacher() -> Callable[[np.ndarray], np.ndarray]:
        expert = metaworld.make_expert(name, env)
        return lambda state: expert({"state": state}, None)

    found: dict[str, list[float]] = {}
    for who, make in (("student", student), ("teacher", teacher)):
        found[who] = []
        for seed in evaluation_seeds(episodes, EVALUATION_SEED):
            (state, _), act, total = env.reset(seed=seed), make(), 0.0
            for _ in range(metaworld.MAX_STEPS):
                state, reward, *_ = env.step(act(np.asarray(state, np.float32)))
                total += float(reward)
            found[who].append(total)
    env.close()
    return found


def load(folder: Path) -> dict[tuple[str, int], Row]:
    """All finished students; of one that was made again the last."""
    return {(row["case"], row["seed"]): row for row in read_json_lines(folder / FILE)}


def paired_of(rows: list[Row]) -> Paired:
    """The students of one teacher beside it."""
    return Paired(
        rows[0]["world"],
        np.array([[row["student_scores"] for row in rows]]),
        np.array([rows[0]["teacher_scores"]]),
        random=float(np.mean(rows[0]["random_scores"])),
    )


def table(results_folder: Path = RESULTS) -> None:
    """Print what was asked beside what was measured.

    Args:
        results_folder: where the lines are.
    """
    rows = load(results_folder)
    if not rows:
        raise UserError(f"expected finished students in {results_folder / FILE}, found none")
    head = (
        "case", "asked", "student / teacher", "lowest seed", "above random", "student", "teacher", "random",
        "successes", "return", "parameters", "teacher's", "seeds", "episodes",
    )  # fmt: skip
    out = Table(*head, box=box.SIMPLE, title="Per cent; 95 % intervals over students and paired episodes")
    for name in [name for name in CASES if any(case == name for case, _ in rows)]:
        out.add_row(*_cells(name, [rows[key] for key in sorted(rows) if key[0] == name]))
    Console(width=220, highlight=False).print(out)


def _cells(name: str, rows: list[Row]) -> list[str]:
    game = paired_of(rows)

    def measured(statistic: Callable[[Paired], float]) -> str:
        over: tuple[paired.Level, ...] = ("students", "episodes")
        low, high = paired.seed_bootstrap([game], lambda games: statistic(games[0]), over=over)
        return f"{_percent(statistic(game))} [{_percent(low)}, {_percent(high)}]"

    each = game.student_KJN.mean((0, 2)) / game.teacher_KN.mean()
    won = "–"
    if rows[0]["world"].startswith(("babyai/", "metaworld/")):  # where a score above 0 is a success
        won = f"{(game.student_KJN > 0).mean():.1%} / {(game.teacher_KN > 0).mean():.1%}"
    summed = next((row["returns"] for row in rows if "returns" in row), None)
    ratio = "–" if summed is None else _percent(np.mean(summed["student"]) / np.mean(summed["teacher"]))
    size = rows[0]["teacher_parameters"]
    return [
        name,
        f"≥ {ASKED:.0%}",
        measured(paired.score_ratio),
        _percent(each.min()),
        measured(paired.random_normalised_ratio),
        f"{game.student_KJN.mean():.3g}",
        f"{game.teacher_KN.mean():.3g}",
        f"{game.random:.3g}",
        won,
        ratio,
        f"{rows[0]['parameters']:,}",
        "a program" if size is None else f"{size:,}",
        str(len(rows)),
        str(game.teacher_KN.shape[1]),
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "table": table})

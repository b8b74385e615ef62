"""`factotum generalist`: from nothing to `factotum-s`: collect, train, DAgger rounds, evaluate, report, ship.

Each stage is made of the project's own commands, which go on where they stopped and do not repeat what is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from factotum.core.checks import UserError
from factotum.recipes import collect, generalist_evaluate, generalist_ship, report, train
from factotum.recipes.agents import require_installed
from factotum.recipes.generalist_budget import SETTINGS, SizeName
from factotum.recipes.generalist_plan import STAGES, Baseline, Plan, Stage
from factotum.recipes.generalist_tasks import FEW, by_count, choose, chunk_of, scaled, together
from factotum.recipes.policy_expert import policy_tasks
from factotum.recipes.train_start import OptimizerName
from factotum.training.checkpoint import latest_checkpoint
from factotum.training.metrics import join_metrics
from factotum.training.provenance import record_command


@dataclass(frozen=True)
class Args:
    """One small Gato for 122 tasks, from nothing to a checkpoint with its card.

    Run again, it goes on where it stopped.
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]] = Path("runs/factotum-s")
    """folder of the run"""
    data: Path = Path("data/factotum-s")
    """folder of the datasets; those of the left-out tasks lie in one beside it"""
    stages: tuple[Stage, ...] = STAGES
    """which to run; each needs those before it"""
    size: SizeName = "5m"
    """5m for two CPU cores; 20m (the largest that may be shipped) or 25m for a GPU"""
    scale: float = 1.0
    """makes episodes, updates and evaluation smaller: 0.01 to try all of it"""
    tasks: tuple[str, ...] = ()
    """suites, globs or names of its tasks; all by default"""
    teachers: tuple[str, ...] = ()
    """folders of trained policies (checkpoints/atari/Pong-teacher) that show Atari's and MinAtar's games"""
    rounds: int = 2
    """of DAgger: the agent acts, the expert labels, training goes on with both"""
    episodes: int = 50
    """evaluation episodes a task, at scale 1"""
    baselines: tuple[Baseline, ...] = ("random", "expert", "retrieve")
    """who plays beside it"""
    steps: int = 0
    """updates on demonstrations, 0 for those of the size, times the scale"""
    round_steps: int = 0
    """updates of a further round, likewise"""
    rows: int = 0
    """sequences in an update, 0 for those of the size"""
    tokens: Literal["fused", "scalar"] = "fused"
    """scalar is the paper's: one position a token"""
    prompt_share: float = 0.25
    """share of training sequences with a demonstration in front"""
    adaptivity: float = 0.0
    """above 0, tasks whose loss falls least are drawn more"""
    optimizer: OptimizerName = "adamw"
    """hierarchical-rnn is the learned one"""
    longest: int = 400
    """steps after which an episode of a round is cut: one who is stuck shows nothing new"""
    seed: int = 0
    """of training"""
    threads: int = 2
    """torch's CPU threads in training"""
    jobs: int = -1
    """processes that collect, -1 for one a core"""
    ship_to: Path = Path("checkpoints/factotum-s")
    """folder of the checkpoint that is shipped"""

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise UserError(f"scale: expected more than 0 and at most 1, got {self.scale:g}")
        for name, least in (
            ("rounds", 0),
            ("episodes", 1),
            ("longest", 1),
            ("steps", 0),
            ("round_steps", 0),
            ("rows", 0),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name}: expected {least} or more, got {getattr(self, name)}")


def main(args: Args) -> None:
    """Say what it will cost, then run the stages that are asked for.

    Raises:
        UserError: more than the generalist may have, changed settings, or a stage before its time.
    """
    plan = make_plan(args)
    plan.budget.check(ship="ship" in args.stages)
    print(f"{len(plan.tasks)} tasks, size {args.size}: {plan.budget}")
    require_installed(plan.tasks)
    plan.remember()
    record_command(args.run)
    stages: dict[Stage, Callable[[Plan], None]] = {
        "collect": collect_demonstrations,
        "train": train_on_demonstrations,
        "dagger": dagger,
        "evaluate": generalist_evaluate.evaluate_all,
        "report": write_report,
        "ship": generalist_ship.ship,
    }
    for stage in STAGES:
        if stage in args.stages:
            print(f"stage: {stage}")
            stages[stage](plan)


def make_plan(args: Args) -> Plan:
    """All of the settings, the size's own where none is given."""
    setting = SETTINGS[args.size]
    return Plan(
        run=args.run,
        data=args.data,
        tasks=tuple(choose(args.tasks, policy_tasks(args.teachers))),
        setting=replace(setting, rows=args.rows or setting.rows),
        scale=args.scale,
        rounds=args.rounds,
        episodes=scaled(args.episodes, args.scale, least=2),
        baselines=args.baselines,
        steps=args.steps or scaled(setting.steps, args.scale, least=20),
        round_steps=args.round_steps or scaled(setting.round_steps, args.scale, least=10),
        tokens=args.tokens,
        prompt_share=args.prompt_share,
        adaptivity=args.adaptivity,
        optimizer=args.optimizer,
        longest=args.longest,
        teachers=args.teachers,
        seed=args.seed,
        threads=args.threads,
        jobs=args.jobs,
        ship_to=args.ship_to,
    )


def collect_demonstrations(plan: Plan) -> None:
    """The experts' episodes of all tasks, BabyAI's in other words too, and a few of the left-out tasks."""
    expert = {name: scaled(plan.material(name).expert, plan.scale) for name in plan.tasks}
    words = {name: scaled(plan.material(name).words, plan.scale) for name in plan.tasks}
    for (episodes, policy), names in by_count(expert, plan.experts).items():
        collect.main(
            collect.Args(
                tasks=tuple(names), episodes=episodes, data=plan.data, expert=policy, jobs=plan.jobs,
                chunk=chunk_of(episodes),
            )
        )  # fmt: skip
    for (episodes, _), names in by_count(words, {}).items():
        collect.main(
            collect.Args(
                tasks=tuple(names), episodes=episodes, data=plan.data, name="words", words="training",
                seed=10_000_000, jobs=plan.jobs, chunk=chunk_of(episodes),
            )
        )  # fmt: skip
    if plan.left_out:
        collect.main(
            collect.Args(
                tasks=plan.left_out, episodes=FEW, data=plan.left_out_data, jobs=plan.jobs, chunk=FEW
            )
        )


def train_on_demonstrations(plan: Plan) -> None:
    """The first training, from random weights."""
    train.main(plan.training(0))


def dagger(plan: Plan) -> None:
    """Rounds of: the newest agent acts, the expert labels each step, training goes on with all data so far."""
    counts = {name: scaled(plan.material(name).round, plan.scale) for name in plan.tasks}
    for number in range(1, plan.rounds + 1):
        checkpoint = plan.checkpoint(number - 1)
        for (episodes, policy), names in by_count(counts, plan.experts).items():
            collect.main(
                collect.Args(
                    tasks=tuple(names), episodes=episodes, data=plan.data, actor=str(checkpoint), expert=policy,
                    name=f"dagger-{number}", longest=plan.longest, seed=20_000_000 * number, jobs=plan.jobs,
                    chunk=together(episodes),
                )
            )  # fmt: skip
        train.main(plan.training(number))


def write_report(plan: Plan) -> None:
    """One file of all rounds' curves and the evaluation."""
    rounds = [plan.round_folder(number) for number in range(plan.rounds + 1)]
    join_metrics([folder for folder in rounds if latest_checkpoint(folder)], plan.run)
    report.main(report.Args(run=plan.run, title="factotum-s: one small Gato", agent="gato"))

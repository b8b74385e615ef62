"""`factotum distill`: experts become one small, fast policy: one teacher, many, or teachers that still learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from factotum.core.checks import UserError
from factotum.core.config import to_json_dict
from factotum.distill.fine_tune import FineTuneConfig
from factotum.distill.model import PolicyNetwork
from factotum.distill.store import save_policy
from factotum.distill.teacher import Kind
from factotum.recipes.distill_baseline import train_baseline
from factotum.recipes.distill_evaluate import Evaluation
from factotum.recipes.distill_fine_tune import fine_tune
from factotum.recipes.distill_measure import evaluate_student
from factotum.recipes.distill_online import Pace, online_lessons
from factotum.recipes.distill_play import PlayConfig
from factotum.recipes.distill_report import print_evaluation, report_run
from factotum.recipes.distill_schedule import Schedule
from factotum.recipes.distill_tasks import (
    EXPERT,
    Lesson,
    find_lessons,
    make_objective,
    student_config,
    version_of,
)
from factotum.recipes.distill_train import Learning, Student, share_now, train_student
from factotum.recipes.teacher_choice import Changes
from factotum.training.distributed import make_accelerator
from factotum.training.provenance import read_commands, record_command

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Loss:
    """What the student is trained to do; what is left out is what suits the teachers."""

    loss: Literal["kl", "nll", "mse", "gaussian", "action"] | None = None
    """kl, the paper's best; nll of the teacher's best action; mse of Q-values; gaussian or action where continuous"""
    temperature: float | None = None
    """of the teacher's policy; 0.01 for Q-values, 1 for logits and probabilities"""
    tempered: Literal["teacher", "both"] | None = None
    """divide the teacher's outputs alone (the default), or the student's as well"""
    direction: Literal["forward", "reverse"] | None = None
    """KL from the teacher (the default), or from the student"""
    reduction: Literal["mean", "sum"] | None = None
    """over a minibatch; the paper sums"""


@dataclass(frozen=True)
class Args:
    """Distil teachers into a student; run again, it goes on where it stopped. The policy ends in RUN/policy."""

    teachers: tuple[str, ...] = ()
    """policies or runs of train-teacher, archives of Stable-Baselines3 (.zip), MODULE:FUNCTION, or "expert" for the
    one that a world of babyai, metaworld or box2d has; one student of all"""
    online: tuple[Path, ...] = ()
    """runs of train-teacher that still learn, in place of teachers: the student follows their best policy so far"""
    worlds: tuple[str, ...] = ()
    """the world of each teacher, such as gym/CartPole-v1; policies of ours know theirs"""
    kind: Kind | None = None
    """what a MODULE:FUNCTION returns"""
    student: str = "teacher"
    """size: teacher, net1 (25 %), net2 (7 %), net3 (4 %), multitask-3, multitask-10; for vectors mlp-64 and the like,
    for pictures cnn-32x1-16x3-64: channels x kernel of convolutions, widths of dense layers"""
    standardise: bool = False
    """entries of vectors come to the student less their mean, over their deviation, as seen in training"""
    out: Path | None = None
    """folder of the run, runs/distill-... by default; an existing one is resumed"""
    loss: Annotated[Loss, Flat] = field(default_factory=Loss)
    schedule: Annotated[Schedule, Flat] = field(default_factory=Schedule)
    play: Annotated[PlayConfig, Flat] = field(default_factory=PlayConfig)
    learning: Annotated[Learning, Flat] = field(default_factory=Learning)
    online_pace: Pace = "live"
    """follow learning teachers as they are now, or a run that is over as if both learnt side by side"""
    baseline: Literal["none", "multi-dqn"] = "none"
    """multi-dqn: no distillation, the same network learns all games by Q-learning from as many frames"""
    dqn: Changes = field(default_factory=Changes)
    fine_tune: int = 0
    """environment steps of reinforcement learning afterwards, the distillation term annealed; 0 for none"""
    tuning: FineTuneConfig = field(default_factory=FineTuneConfig)
    episodes: int = 100
    """games of each task that student, teacher and random play are measured on, from the same starts"""
    evaluation_epsilon: float | None = None
    """share of random actions of student and teacher in evaluation; that of play by default"""
    evaluation_sample: bool = False
    """in evaluation the student draws from its policy in place of taking the likeliest action: where the teacher acts
    on more than is observed, a student that always does the same may go in circles"""
    evaluation_environments: int = 50
    """environments side by side in evaluation; the starts of episodes depend on it"""
    evaluation_seed: int = 2
    """block of evaluation seeds; training uses 0, teachers are chosen and measured on 0 and 1"""
    score_every: int = 0
    """hours between scores of the student noted in training, 0 for none"""
    shared_scores: Path | None = None
    """folder that keeps scores of random play for other runs"""


def main(args: Args) -> dict[str, Any]:
    """Train, evaluate, end with the policy's folder and a report; what was measured.

    Raises:
        UserError: teachers, worlds, losses and students that do not go together, changed settings, damaged files.
    """
    check(args)
    if args.play.threads:
        torch.set_num_threads(args.play.threads)
    device = make_accelerator(args.learning.device).device
    run = args.out or default_run(args)
    lessons_at = (
        partial(online_lessons, args.online, args.online_pace, run / "teachers", device)
        if args.online
        else None
    )
    if lessons_at is not None:
        lessons = lessons_at(share_now(run, args.schedule, len(args.online)))
        settings: dict[str, Any] = {"online": [args.online_pace, *map(str, args.online)]}
    else:
        lessons = find_lessons(args.teachers, args.worlds, args.kind, device)
        settings = {"teachers": [[lesson.task, lesson.source, lesson.version] for lesson in lessons]}
    objective = make_objective(lessons, to_json_dict(args.loss))
    config = student_config(args.student, lessons, objective, args.standardise)
    student = Student(run, config, objective, args.schedule, args.play, args.learning, args.score_every)
    record_command(run)
    if args.baseline == "multi-dqn":
        network = train_baseline(student, lessons, args.dqn)
    else:
        network = train_student(student, lessons, lessons_at=lessons_at, settings=settings)
    if lessons_at is not None:
        lessons = lessons_at(1.0)
    if args.fine_tune:
        network = fine_tune(
            run, network, lessons[0], objective, args.tuning, args.play, args.fine_tune, args.learning.seed
        )
    return finish(args, run, network, lessons)


def check(args: Args) -> None:
    """Refuse options that do not go together, before anything is made."""
    if bool(args.teachers) == bool(args.online):
        given = "both" if args.online else "neither"
        raise UserError(f"teachers: expected --teachers or --online, got {given}")
    if args.fine_tune < 0 or args.score_every < 0 or args.episodes < 1 or args.evaluation_environments < 1:
        raise UserError(
            f"expected fine_tune and score_every from 0 on, evaluation_environments and episodes from 1 on, got "
            f"{args.fine_tune}, {args.score_every}, {args.evaluation_environments} and {args.episodes}"
        )
    if args.fine_tune and (args.baseline != "none" or len(args.teachers or args.online) > 1):
        raise UserError("fine_tune: expected one teacher and no baseline")
    if args.online and (args.baseline != "none" or args.worlds):
        raise UserError("online: expected neither --baseline nor --worlds beside it")


def default_run(args: Args) -> Path:
    """Where a run lies that was not told: named by its teachers and its size.

    >>> default_run(Args(teachers=("runs/minatar-breakout",), student="net3")).as_posix()
    'runs/distill-minatar-breakout-net3'
    >>> default_run(Args(teachers=("expert",), worlds=("metaworld/reach",), student="mlp-32")).as_posix()
    'runs/distill-metaworld-reach-mlp-32'
    """
    named = list(args.teachers)
    for index, world in enumerate(args.worlds[: len(named)]):
        if named[index] == EXPERT:
            named[index] = world.replace("/", "-")
    sources = [Path(source).name.partition(":")[0] for source in (*named, *map(str, args.online))]
    kind = args.baseline if args.baseline != "none" else "online" if args.online else "distill"
    return Path("runs") / "-".join([kind, *sources, args.student])


def finish(args: Args, run: Path, network: PolicyNetwork, lessons: Sequence[Lesson]) -> dict[str, Any]:
    """Evaluate, then write the policy, its card and the report."""
    network = network.to(make_accelerator(args.learning.device).device).eval()
    save_policy(network, run / "policy", _made_by(args, run, lessons, None))
    how = Evaluation(
        args.episodes,
        environments=args.evaluation_environments,
        epsilon=args.play.epsilon if args.evaluation_epsilon is None else args.evaluation_epsilon,
        sample=args.evaluation_sample,
        seed=args.evaluation_seed,
        shared=args.shared_scores,
        threads=args.play.threads,
    )
    evaluation = evaluate_student(run, lessons, network, how, version_of(run / "policy"))
    save_policy(network, run / "policy", _made_by(args, run, lessons, evaluation))
    path = report_run(run)
    print_evaluation(evaluation)
    print(f"policy: {run / 'policy'}\nreport: {path}")
    return evaluation


def _made_by(
    args: Args, run: Path, lessons: Sequence[Lesson], evaluation: dict[str, Any] | None
) -> dict[str, Any]:
    """What is noted beside the weights."""
    scores = (
        {} if evaluation is None else {name: evaluation[name] for name in ("tasks", "geometric_mean_ratio")}
    )
    return {
        "system": "baseline multi-dqn" if args.baseline != "none" else "policy distillation",
        "teachers": {lesson.task: f"{lesson.source} {lesson.version}".strip() for lesson in lessons},
        "loss": to_json_dict(args.loss),
        "schedule": to_json_dict(args.schedule),
        "seed": args.learning.seed,
        "fine-tuned steps": args.fine_tune,
        "commands": read_commands(run),
        **scores,
    }

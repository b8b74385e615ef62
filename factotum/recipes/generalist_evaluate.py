"""What is played to judge the generalist: all its tasks beside baselines, other words, and tasks it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from factotum.core.files import read_json, write_json_atomic
from factotum.gato.model import Gato
from factotum.recipes import evaluate
from factotum.recipes.generalist_plan import Plan
from factotum.recipes.generalist_tasks import FEW, WORD_SPLITS
from factotum.recipes.quickstart import beside
from factotum.training.records import checkpoint_hash


def evaluate_all(plan: Plan) -> None:
    """Round the newest weights, then play what is not on record; two processes share the tasks.

    Raises:
        UserError: no training is finished, or a game failed.
    """
    round_weights(plan)
    todo = [*main_evaluations(plan), *left_out_evaluations(plan), *word_evaluations(plan)]
    with beside(play, [_half(args, 0) for args in todo], log=plan.run / "evaluation.log"):
        play([_half(args, 1) for args in todo])
    for args in todo:  # all is on record: this writes the summary of both halves
        evaluate.main(args)


def round_weights(plan: Plan) -> None:
    """RUN/model: the newest weights in half precision, so that what is evaluated is what is shipped."""
    import torch

    checkpoint = plan.last_checkpoint()
    made_by = {"checkpoint": checkpoint.relative_to(plan.run).as_posix(), "hash": checkpoint_hash(checkpoint)}
    stamp = plan.run / "model.json"
    if plan.model.is_dir() and stamp.is_file() and read_json(stamp) == made_by:
        return
    stamp.unlink(missing_ok=True)
    Gato.load_folder(checkpoint).save_folder(plan.model, dtype=torch.float16)
    write_json_atomic(stamp, made_by)


def play(todo: Sequence[evaluate.Args]) -> None:
    """One evaluation after the other."""
    for args in todo:
        if args.tasks:
            evaluate.main(args)


def _half(args: evaluate.Args, part: int) -> evaluate.Args:
    return replace(args, tasks=args.tasks[part::2])


def main_evaluations(plan: Plan) -> list[evaluate.Args]:
    """All tasks of training, for the baselines and the agent, which comes last."""
    common = evaluate.Args(
        agent=str(plan.model),
        tasks=plan.tasks,
        episodes=plan.episodes,
        data=plan.data,
        datasets=("*/expert-v0",),
        out=plan.run,
        threads=1,
    )
    return [*(replace(common, agent=name) for name in plan.baselines), replace(common, label="gato")]


def left_out_evaluations(plan: Plan) -> list[evaluate.Args]:
    """Tasks that training never saw: without a prompt, with one of a few demonstrations, and those alone."""
    if not plan.left_out:
        return []
    common = evaluate.Args(
        agent=str(plan.model),
        tasks=plan.left_out,
        episodes=plan.episodes,
        data=plan.left_out_data,
        out=plan.run / "left-out",
        threads=1,
    )
    prompted = replace(common, prompt_episodes=FEW, label="gato+prompt")
    baselines = [replace(common, agent=name) for name in plan.baselines]
    return [*baselines, replace(common, label="gato"), prompted]


def word_evaluations(plan: Plan) -> list[evaluate.Args]:
    """BabyAI's missions as the levels say them, and in other words."""
    if not plan.word_levels:
        return []
    common = evaluate.Args(
        agent=str(plan.model),
        tasks=plan.word_levels,
        episodes=plan.episodes,
        data=plan.data,
        out=plan.run / "words",
        pictures=False,
        threads=1,
    )
    plain = replace(common, label="gato")
    return [*(replace(common, words=words) for words in WORD_SPLITS), plain]  # type: ignore[arg-type]


def command(args: evaluate.Args) -> str:
    """The command line of an evaluation, as it would be typed.

    >>> command(evaluate.Args(agent="model", tasks=("gym/Taxi",), episodes=5, label="gato"))
    'factotum evaluate model gym/Taxi --episodes 5 --data data --label gato'
    """
    words = ["factotum evaluate", args.agent, *args.tasks, f"--episodes {args.episodes} --data {args.data}"]
    if args.datasets != ("*",):
        words.append("--datasets " + " ".join(f"'{pattern}'" for pattern in args.datasets))
    for name in ("prompt_episodes", "label", "out"):
        if getattr(args, name):
            words.append(f"--{name.replace('_', '-')} {getattr(args, name)}")
    return " ".join(words + [f"--words {args.words}"] * (args.words != "plain"))

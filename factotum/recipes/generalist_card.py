"""The generalist's model card: what was measured, beside what was asked and beside JAT; failures; how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from factotum.core.files import read_json
from factotum.recipes.evaluate import summarise_run
from factotum.recipes.generalist_evaluate import (
    command,
    left_out_evaluations,
    main_evaluations,
    word_evaluations,
)
from factotum.recipes.generalist_plan import Plan
from factotum.recipes.generalist_tasks import FEW, LEFT_OUT
from factotum.training.provenance import machine, read_commands, versions
from factotum.training.records import checkpoint_hash
from factotum.training.summary import Score, Summary, TaskRow, readable

HEAD = "---\nlibrary_name: factotum\nlicense: apache-2.0\n---\n"


@dataclass(frozen=True)
class Goal:
    """One thing that is asked of it.

    Args:
        what: in words.
        asked: the least value.
        measured: None where nothing was measured.
    """

    what: str
    asked: float
    measured: float | None

    @property
    def met(self) -> str:
        """In a word."""
        return "not measured" if self.measured is None else "yes" if self.measured >= self.asked else "no"


def write_card(plan: Plan) -> str:
    """The card's text.

    Raises:
        UserError: nothing was evaluated.
    """
    summary = summarise_run(plan.run, "gato")
    sections = [
        HEAD + "# factotum-s\n",
        _what_it_is(plan, summary),
        "## Asked and measured\n\n" + _goals_table(goals(summary)),
        _beside_jat(summary),
        "## Every task\n\n" + how_it_was_played(summary) + task_table(summary),
        "## Where it fails\n\n" + failures(summary),
        _words(plan),
        _left_out(plan),
        _provenance(plan),
    ]
    return "\n".join(section for section in sections if section)


def _what_it_is(plan: Plan, summary: Summary) -> str:
    return (
        f"One Gato for {len(plan.tasks)} tasks: one set of weights, no head of a task's own. {plan.budget}. All data "
        "is made by the project's own commands. The weights are rounded to half precision; every figure here is of "
        "the rounded ones.\n\n"
        f"Use: `factotum play babyai/GoToLocal {plan.ship_to} --video film.mp4`, "
        f"`factotum evaluate {plan.ship_to} --suite babyai metaworld`.\n"
    )


def goals(summary: Summary) -> list[Goal]:
    """What the generalist is asked to reach, and what it reached; normalised: (score - random) / (expert - random)."""
    by = {row.task: row.scores[summary.agent] for row in summary.rows if summary.agent in row.scores}
    retrieve = {row.task: row.scores["retrieve"] for row in summary.rows if "retrieve" in row.scores}

    def of(*families: str) -> list[Score]:
        return [score for name, score in by.items() if name.startswith(families)]

    def normalised(scores: Iterable[Score]) -> list[float]:
        return [score.normalised for score in scores if score.normalised is not None]

    arm = [score.raw for score in of("metaworld/")]
    shared = [name for name in by if name.startswith("metaworld/") and name in retrieve]
    ahead = [by[name].raw - retrieve[name].raw for name in shared]
    mean: Callable[[Sequence[float]], float | None] = lambda x: float(np.mean(x)) if len(x) else None  # noqa: E731
    least: Callable[[Sequence[float]], float | None] = lambda x: float(min(x)) if len(x) else None  # noqa: E731
    babyai, every = normalised(of("babyai/")), normalised(by.values())
    return [
        Goal("BabyAI, mean over its levels, normalised", 0.93, mean(babyai)),
        Goal("BabyAI, lowest level", 0.5, least(babyai)),
        Goal("Meta-World, mean success", 0.85, mean(arm)),
        Goal("Meta-World, lowest task", 0.3, least(arm)),
        Goal("Meta-World, mean success over retrieve-and-play's", 0.0, mean(ahead)),
        Goal("toy text and classic control, mean normalised", 0.9, mean(normalised(of("gym/")))),
        Goal("Box2D, mean normalised", 0.9, mean(normalised(of("box2d/")))),
        Goal("captions: attributes right", 0.9, mean([score.raw for score in of("scenes/caption")])),
        Goal("captions and questions: mean score", 0.9, mean([score.raw for score in of("scenes/")])),
        Goal("Atari, lowest game with an expert, normalised", 0.5, least(normalised(of("atari/")))),
        Goal("MuJoCo, mean normalised over bodies with an expert", 0.85, mean(normalised(of("mujoco/")))),
        Goal(
            "share of tasks at or above half of the expert",
            0.8,
            mean([float(score >= 0.5) for score in every]),
        ),
    ]


def _goals_table(found: Sequence[Goal]) -> str:
    rows = [[goal.what, f"{goal.asked:.2f}", readable(goal.measured), goal.met] for goal in found]
    return markdown(["", "asked", "measured", "reached"], rows)


def _beside_jat(summary: Summary) -> str:
    if summary.jat is None:
        return ""
    ours, theirs, count = summary.jat
    families: dict[str, list[tuple[float, float]]] = {}
    for row in summary.rows:
        score = row.scores.get(summary.agent)
        if row.jat is not None and score is not None and score.normalised is not None:
            families.setdefault(row.family, []).append((score.normalised, row.jat))
    rows = [
        [family, str(len(pairs)), *(readable(float(np.mean(side))) for side in zip(*pairs, strict=True))]
        for family, pairs in families.items()
    ]
    rows.append(["**all**", str(count), f"**{readable(ours)}**", f"**{readable(theirs)}**"])
    return (
        "## Beside JAT\n\nJAT (192.85 M parameters, about 2e19 FLOP) as published, task by task, by its own "
        "references. On Meta-World JAT's are returns of 100-step episodes of the second version, ours are successes: "
        "indicative only.\n\n" + markdown(["family", "tasks shared", "factotum-s, mean", "JAT, mean"], rows)
    )


def how_it_was_played(summary: Summary) -> str:
    """Episodes a task, and what "normalised" means."""
    counts = [row.scores[summary.agent].episodes for row in summary.rows if summary.agent in row.scores]
    least, most = min(counts, default=0), max(counts, default=0)
    return (
        f"{least if least == most else f'{least} to {most}'} episodes a task on seeds that no training saw, the same "
        "for all who play. Normalised: (score - random) / (expert - random) by the stored references, with the 95 % "
        "bootstrap interval over episodes.\n\n"
    )


def task_table(summary: Summary) -> str:
    """One line a task: raw scores of baselines and agent, normalised with its interval, JAT's."""
    others = [label for label in summary.labels if label not in ("random", "expert", summary.agent)]
    head = ["task", "random", "expert", *others, "factotum-s", "normalised [95 %]", "JAT"]
    return markdown(head, [_cells(row, others, summary.agent) for row in summary.rows])


def _cells(row: TaskRow, others: Sequence[str], agent: str) -> list[str]:
    def raw(label: str) -> str:
        return readable(row.scores[label].raw if label in row.scores else None)

    ends = [readable(one.score if one else None) for one in (row.random, row.expert)]
    score = row.scores.get(agent)
    if score is None or score.normalised is None:
        normalised = row.refused or "–"
    else:
        normalised = interval(score.normalised, score.low, score.high)
    return [row.task, *ends, *map(raw, others), raw(agent), normalised, readable(row.jat)]


def interval(value: float, low: float | None, high: float | None) -> str:
    """A value with its interval.

    >>> interval(0.5, 0.25, 0.75)
    '0.50 [0.25, 0.75]'
    """
    return f"{readable(value)} [{readable(low)}, {readable(high)}]"


def failures(summary: Summary) -> str:
    """Every task below half of the expert, worst first."""
    low = [
        (score.normalised, row.task)
        for row in summary.rows
        if (score := row.scores.get(summary.agent))
        and score.normalised is not None
        and score.normalised < 0.5
    ]
    if not low:
        return "No task is below half of the expert.\n"
    names = ", ".join(f"{task} {readable(score)}" for score, task in sorted(low))
    return f"{len(low)} of {len(summary.rows)} tasks are below half of the expert: {names}.\n"


def _means(summary: Summary) -> list[list[str]]:
    return [[one.label, str(one.tasks), interval(*one.mean)] for one in summary.aggregates]


def _words(plan: Plan) -> str:
    if not (plan.run / "words" / "evaluation").is_dir():
        return ""
    summary = summarise_run(plan.run / "words", "gato")
    return (
        "## BabyAI in other words\n\n"
        f"Levels ({len(summary.rows)}) that need their mission understood, said as they say it, in the paraphrases "
        "of training, in another order of words, in words that no training had, and both "
        "(`factotum.worlds.paraphrase`).\n\n"
        + markdown(["words", "levels", "mean normalised [95 %]"], _means(summary))
    )


def _left_out(plan: Plan) -> str:
    if not (plan.run / "left-out" / "evaluation").is_dir():
        return ""
    summary = summarise_run(plan.run / "left-out", "gato")
    why = "\n".join(f"- {row.task}: {LEFT_OUT[row.task]}" for row in summary.rows)
    return (
        f"## Tasks left out of training\n\nWithout a prompt, with one of {FEW} demonstrations in front, and "
        f"retrieve-and-play with those {FEW} alone.\n\n"
        + markdown(["agent", "tasks", "mean normalised [95 %]"], _means(summary))
        + f"\n{task_table(summary)}\n{why}\n"
    )


def _provenance(plan: Plan) -> str:
    made = read_json(plan.run / "model.json")
    packages = ", ".join(f"{package} {version}" for package, version in versions().items())
    ran = dict.fromkeys(line["command"] for line in read_commands(plan.run))
    figures = [*main_evaluations(plan), *left_out_evaluations(plan), *word_evaluations(plan)]
    again = "\n".join(command(args) for args in figures)
    return (
        f"## How it was made\n\nWeights: {made['checkpoint']} (hash {made['hash']}), rounded (hash "
        f"{checkpoint_hash(plan.model)}). {packages}. {machine()}.\n\n"
        "```\n"
        + "\n".join(ran)
        + "\n```\n\nEvery figure's command, after those:\n\n```\n"
        + again
        + "\n```\n"
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table.

    >>> print(markdown(["a", "b"], [["1", "2"]]), end="")
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [head, ["---"] * len(head)]
    text = [f"| {' | '.join(lines[0])} |", f"|{'|'.join(lines[1])}|"]
    return "\n".join([*text, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def size_of(folder: Path) -> int:
    """Bytes of a checkpoint's weights."""
    return (folder / "model.safetensors").stat().st_size

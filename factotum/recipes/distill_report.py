"""What a distillation's report and terminal show, from the files of its run and of its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from factotum.core.files import read_json
from factotum.recipes.distill_play import hours_played
from factotum.recipes.distill_train import noted_scores, play_seconds
from factotum.recipes.tables import console
from factotum.training.distill_report import write_distill_report
from factotum.training.summary import readable


def report_run(run: Path, *, title: str | None = None, out: Path | None = None) -> Path:
    """Write the report of a run, with other students of the same teachers in the folder around it beside.

    Args:
        run: its folder.
        title: heading; the run's name by default.
        out: the file; RUN/report.html by default.
    """
    path = run / "evaluation.json"
    evaluation = read_json(path) if path.is_file() else None
    return write_distill_report(
        run,
        evaluation,
        beside={} if evaluation is None else neighbours(run, evaluation),
        hours=hours_played(run / "play"),
        scores=noted_scores(run),
        play_seconds=play_seconds(run),
        title=title,
        out=out,
    )


def is_distillation(run: Path) -> bool:
    """Whether a folder is that of a distillation, evaluated or not."""
    path = run / "evaluation.json"
    evaluated = path.is_file() and read_json(path).get("kind") == "distillation"
    return evaluated or (run / "play" / "hours.jsonl").is_file()


def neighbours(run: Path, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluations by the same protocol of other runs in the same folder, of the same teachers."""
    own, found = run.resolve(), {}
    for path in sorted(own.parent.glob("*/evaluation.json")):
        other = read_json(path)
        if path.parent == own or other.get("kind") != "distillation":
            continue
        same = [{**one["of"], "student": ""} for one in (other, evaluation)]
        if same[0] == same[1]:
            found[path.parent.name] = other
    return found


def print_evaluation(evaluation: Mapping[str, Any]) -> None:
    """Scores and ratios on the terminal, a line a game."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("game", no_wrap=True)
    for name in ("random", "teacher", "student", "student / teacher", "above random", "agreement"):
        table.add_column(name, justify="right", no_wrap=True)
    agreed = {game["task"]: game.get("agreement_on_student_states") for game in evaluation["games"]}
    for task, game in evaluation["tasks"].items():
        scores = (readable(game[name]) for name in ("random", "teacher", "student"))
        ratios = (_percent(game[name]) for name in ("ratio", "random_normalised_ratio"))
        share = "–" if agreed[task] is None else f"{agreed[task]:.1%}"
        table.add_row(task, *scores, *ratios, share)
    if len(evaluation["tasks"]) > 1:
        means = (_percent(evaluation[name]) for name in ("geometric_mean_ratio", "geometric_mean_normalised"))
        table.add_row("geometric mean", "", "", "", *means, "")
    console().print(table, markup=False)


def _percent(triple: list[float | None]) -> str:
    value, low, high = triple
    if value is None:
        return "undefined"
    return f"{value:.1%}" + (f" ({low:.1%} to {high:.1%})" if low is not None and high is not None else "")

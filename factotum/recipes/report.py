"""`factotum report`: a run as one offline HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from factotum.core.checks import UserError
from factotum.core.files import read_json
from factotum.recipes.distill_report import is_distillation, report_run
from factotum.recipes.evaluate import summarise_run
from factotum.training.compose_report import is_composition, rewrite_report
from factotum.training.optimizer_report import write_optimizer_report
from factotum.training.records import read_episodes
from factotum.training.report import write_report
from factotum.training.search_report import write_search_report
from factotum.training.teacher_report import teacher_evaluation, write_teacher_report


@dataclass(frozen=True)
class Args:
    """Write a run's tables, curves, rollouts and provenance into one file that needs no network."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """folder of the run"""
    out: Path | None = None
    """file to write; RUN/report.html by default"""
    title: str | None = None
    """heading; the run's name by default"""
    agent: str | None = None
    """label of the agent that the report is about; by default the one with most tasks that is no baseline"""
    pictures: int = 4
    """rollouts shown of each family at most"""


def main(args: Args) -> Path:
    """Write the report and say where it is.

    Raises:
        UserError: no such folder, or an agent that was not evaluated in it.
    """
    if not args.run.is_dir():
        raise UserError(f"run: expected the folder of a run, found none at {args.run}")
    path = _write(args)
    print(f"report: {path}")
    return path


def _write(args: Args) -> Path:
    """By the kind of run; one of agents in worlds where an agent is asked for."""
    run, title, out = args.run, args.title, args.out
    if args.agent is not None:
        return _write_agents_report(args)
    if (run / "held_out.json").is_file():
        return _write_meta_report(args)
    if (evaluation := teacher_evaluation(run)) is not None:
        return write_teacher_report(run, evaluation, title=title, out=out)
    if is_distillation(run):
        return report_run(run, title=title, out=out)
    if is_composition(run):
        return rewrite_report(run, title=title, out=out)
    return _write_agents_report(args)


def _write_agents_report(args: Args) -> Path:
    evaluated = bool(read_episodes(args.run / "evaluation"))
    summary = summarise_run(args.run, args.agent) if evaluated else None
    if args.agent is not None and (summary is None or args.agent not in summary.labels):
        raise UserError(f"agent: expected one that was evaluated in {args.run}, got {args.agent!r}")
    return write_report(args.run, summary, out=args.out, title=args.title, pictures_per_family=args.pictures)


def _write_meta_report(args: Args) -> Path:
    """Of a meta-training run: what was measured last on held-out functions or problems."""
    measured = read_json(args.run / "held_out.json")
    write = write_optimizer_report if "rates" in measured else write_search_report
    return write(args.run, measured, title=args.title, out=args.out)

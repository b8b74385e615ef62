"""Tables on the terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from factotum.training.summary import Aggregate, Summary, TaskRow, readable


def console() -> Console:
    """Standard output, wide enough for tables where it is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def print_summary(summary: Summary) -> None:
    """Per task the raw scores and the normalised one, then all tasks in few numbers."""
    screen = console()
    screen.print(task_table(summary))
    if summary.aggregates:
        screen.print(aggregate_table(summary.aggregates))
    if len(summary.worst) > 1:
        lowest = ", ".join(f"{task} {readable(score)}" for task, score in summary.worst)
        screen.print(f"lowest {len(summary.worst)}: {lowest}")
    if summary.jat is not None:
        ours, theirs, count = summary.jat
        scores = f"{summary.agent} {readable(ours)}, JAT {readable(theirs)} (published)"
        screen.print(f"mean over tasks shared with JAT ({count}): {scores}")


def task_table(summary: Summary) -> Table:
    """One line a task."""
    others = [label for label in summary.labels if label not in ("random", "expert")]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("task", no_wrap=True)
    for name in ("random", "expert", *others, f"{summary.agent} normalised", "95 %", "JAT", "episodes"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary.rows:
        table.add_row(*_cells(row, others, summary.agent))
    return table


def _cells(row: TaskRow, others: list[str], agent: str) -> list[str]:
    ends = [readable(one.score if one else None) for one in (row.random, row.expert)]
    raw = [readable(row.scores[label].raw if label in row.scores else None) for label in others]
    score = row.scores.get(agent)
    if score is None:
        normalised, interval, episodes = "–", "", "–"
    elif score.normalised is None:
        normalised, interval, episodes = "refused", row.refused or "", str(score.episodes)
    else:
        normalised = readable(score.normalised)
        interval, episodes = f"{readable(score.low)} to {readable(score.high)}", str(score.episodes)
    return [row.task, *ends, *raw, normalised, interval, readable(row.jat), episodes]


def aggregate_table(aggregates: tuple[Aggregate, ...]) -> Table:
    """One line an agent: mean, median, interquartile mean, share at or above half of the expert."""
    table = Table(box=None, header_style="bold", pad_edge=False, title="\nover tasks, with 95 % intervals")
    table.title_justify = "left"
    table.add_column("agent")
    for name in ("tasks", "mean", "median", "IQM", "≥ half of expert"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in aggregates:
        numbers = [
            f"{readable(value)} ({readable(low)} to {readable(high)})" for value, low, high in _triples(one)
        ]
        table.add_row(one.label, str(one.tasks), *numbers)
    return table


def _triples(one: Aggregate) -> tuple[tuple[float, float, float], ...]:
    return one.mean, one.median, one.interquartile_mean, one.half

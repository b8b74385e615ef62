"""`factotum tasks`: what exists, with experts, reference scores and what is missing to play it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.table import Table

from factotum.recipes.tables import console
from factotum.worlds.suites import registry
from factotum.worlds.suites.task import Reference, Suite, Task


@dataclass(frozen=True)
class Args:
    """List suites, or the tasks that match."""

    patterns: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN")]] = ()
    """suites, globs or names: babyai, metaworld/*, gym/Taxi; without any, the suites are listed"""
    expert: bool = False
    """only tasks that have an expert"""
    installed: bool = False
    """only tasks whose packages are installed"""
    sources: bool = False
    """say where each reference score is from"""
    json: bool = False
    """print JSON instead of tables"""


def main(args: Args) -> list[dict[str, Any]]:
    """Print what matches; the same as a list."""
    if not args.patterns and not args.json:
        print_suites(
            [suite for suite in registry.suites().values() if not (args.installed and suite.missing())]
        )
    entries = list_tasks(
        args.patterns or tuple(registry.suites()), expert=args.expert, installed=args.installed
    )
    if args.json:
        print(json.dumps(entries, indent=1))
    elif args.patterns:
        print_tasks(entries, args.sources)
    return entries


def list_tasks(
    patterns: Sequence[str], *, expert: bool = False, installed: bool = False
) -> list[dict[str, Any]]:
    """What is known of each matching task, as JSON values.

    >>> list_tasks(["gym/Taxi"])[0]["measure"]
    'return'
    """
    entries = [_entry(registry.task(name)) for name in registry.expand(list(patterns))]
    return [
        entry
        for entry in entries
        if (entry["has_expert"] or not expert) and (entry["install"] is None or not installed)
    ]


def _entry(task: Task) -> dict[str, Any]:
    suite = registry.suites().get(task.name.split("/")[0])
    return {
        "task": task.name,
        "instruction": task.instruction,
        "observations": _observations(task),
        "actions": str(task.action_space) if not hasattr(task.action_space, "max_length") else "Text",
        "measure": task.measure,
        "max_steps": task.max_steps,
        "has_expert": task.make_expert is not None,
        "random": _reference(task.random),
        "expert": _reference(task.expert),
        "install": suite.missing() if suite else None,
    }


def _observations(task: Task) -> list[str]:
    return (
        sorted(task.observation_space.keys()) if hasattr(task.observation_space, "keys") else ["observation"]
    )


def _reference(reference: Reference | None) -> dict[str, Any] | None:
    return None if reference is None else {"score": reference.score, "source": reference.source}


def print_suites(suites: Sequence[Suite]) -> None:
    """One line a suite: tasks, experts, what to install."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, justify in (("suite", "left"), ("tasks", "right"), ("experts", "right"), ("", "left")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("to install")
    for suite in suites:
        experts = sum(suite.task(name).make_expert is not None for name in suite.names)
        table.add_row(
            suite.name, str(len(suite.names)), str(experts), suite.title, suite.missing() or "ready"
        )
    screen = console()
    screen.print(table, markup=False)
    screen.print('folders of yours are tasks too: "captions:FOLDER", "text:FOLDER"', markup=False)
    screen.print("`factotum tasks SUITE` lists the tasks of a suite")


def print_tasks(entries: Sequence[dict[str, Any]], sources: bool) -> None:
    """One line a task."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = (
        "task",
        "observations",
        "actions",
        "measure",
        "steps",
        "expert",
        "random score",
        "expert score",
    )
    for name in columns:
        table.add_column(
            name, justify="right" if "s" in name and name.endswith(("score", "steps")) else "left"
        )
    for entry in entries:
        table.add_row(*_cells(entry))
    screen = console()
    screen.print(table, markup=False)
    for command in dict.fromkeys(entry["install"] for entry in entries if entry["install"]):
        screen.print(f"some of these need packages that are not installed: {command}", markup=False)
    if sources:
        for source, names in _by_source(entries).items():
            screen.print(f"{source}: {', '.join(names)}", markup=False)


def _cells(entry: dict[str, Any]) -> list[str]:
    scores = [f"{one['score']:,.4g}" if (one := entry[kind]) else "–" for kind in ("random", "expert")]
    expert = "yes" if entry["has_expert"] else "no"
    words = [
        ", ".join(entry["observations"]),
        entry["actions"],
        entry["measure"],
        str(entry["max_steps"]),
        expert,
    ]
    return [entry["task"], *words, *scores]


def _by_source(entries: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in entries:
        for kind in ("random", "expert"):
            if entry[kind]:
                found.setdefault(entry[kind]["source"], []).append(f"{entry['task']} ({kind})")
    return found

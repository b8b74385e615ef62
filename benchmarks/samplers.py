"""Learned and other black-box optimizers side by side: regret on four suites, and CPU time for each suggestion.

    python benchmarks/samplers.py run --rivals random tpe cma gp --suites functions gp bbob tables
    python benchmarks/samplers.py run --rivals ngopt botorch gp-true --rivals-python /path/to/rivals-env/bin/python
    python benchmarks/samplers.py run --rivals core rnn --ours runs/sampler/weights
    python benchmarks/samplers.py time --rivals-python /path/to/rivals-env/bin/python
    python benchmarks/samplers.py table

Runs are kept (benchmarks/results/samplers/*.jsonl): the same command again adds what is missing. Suites and their
seeds are in samplers_problems.py, rivals in samplers_rivals.py.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

import samplers_results as results
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from samplers_problems import SUITES, Problem, problems
from samplers_rivals import EXTERNAL, HOSTED, OURS, Rival, our_core, play, play_batch

from factotum.core.checks import UserError


def run(
    rivals: tuple[str, ...] = HOSTED,
    suites: tuple[str, ...] = SUITES,
    ours: tuple[str, ...] = (),
    rivals_python: str | None = None,
    only: str = "",
    instances: tuple[int, ...] = (),
    jobs: int = 1,
    results_folder: Path = results.RESULTS,
) -> None:
    """Make the runs that are missing.

    Args:
        rivals: any of random, tpe, cma, gp, ngopt, botorch, gp-true, rnn, core; see samplers_rivals.py.
        suites: any of functions, gp, bbob, tables.
        ours: weights for rnn and core: shipped names or folders; none is the default weights.
        rivals_python: interpreter of the environment with Nevergrad and BoTorch.
        only: problems whose name starts with this, such as D10/ or Branin.
        instances: numbers of the instances; none is all.
        jobs: processes.
        results_folder: where the runs are kept.
    """
    for rival in _rivals(rivals, ours, rivals_python):
        for suite in suites:
            asked = [p for p in problems(suite) if not instances or p.instance in instances]
            wanted = rival.tasks([p for p in asked if p.name.startswith(only)])
            file = results.path(results_folder, suite, rival.label)
            left = results.missing(results.load(results_folder, suite, rival.label), wanted, file)
            for line in _shown(_lines(rival, left, jobs), f"{suite} {rival.label}", len(left)):
                results.store(results_folder, suite, rival.label, line)


def _rivals(names: Iterable[str], ours: tuple[str, ...], python: str | None) -> Iterator[Rival]:
    for name in names:
        if name.partition("@")[0] not in OURS:
            yield Rival(name, python=python)
            continue
        for weights in ours or (None,):
            try:
                rival = Rival(name, weights)
                assert rival.label
            except (ImportError, UserError) as error:
                print(f"left out: {name} {weights or '(default weights)'}: {error}", file=sys.stderr)
                continue
            yield rival


def _lines(rival: Rival, left: list[Problem], jobs: int) -> Iterator[results.Row]:
    if rival.base == "core":
        yield from _batched(rival, left)
    elif jobs == 1:
        yield from (_one(rival, problem) for problem in left)
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            keys = [(problem.suite, *results.key(problem)) for problem in left]
            yield from pool.map(_one_by_key, [rival] * len(left), keys)


def _one(rival: Rival, problem: Problem) -> results.Row:
    values, seconds = play(rival.player(problem), problem)
    return results.row(problem, rival.label, values, sum(seconds))


def _one_by_key(rival: Rival, key: tuple[str, str, int, int]) -> results.Row:
    suite, *rest = key
    return next(_one(rival, p) for p in rival.tasks(problems(suite)) if results.key(p) == tuple(rest))


def _batched(rival: Rival, left: list[Problem]) -> Iterator[results.Row]:
    def size(problem: Problem) -> tuple[int, int]:
        return problem.dimensions, problem.budget

    for _, group in groupby(sorted(left, key=size), key=size):
        batch = list(group)
        all_values, seconds = play_batch(our_core(rival.weights), batch)
        for problem, values in zip(batch, all_values, strict=True):
            yield results.row(problem, rival.label, values, sum(seconds) / len(batch))


def _shown(lines: Iterator[results.Row], name: str, total: int) -> Iterator[results.Row]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, refresh_per_second=1) as progress:
        yield from progress.track(lines, total=total, description=name)


def time(ours: tuple[str, ...] = (), rivals_python: str | None = None, repeats: int = 3) -> None:
    """Measure CPU time for each suggestion, all contestants in one run, and write it to time.json.

    Args:
        ours: weights: shipped names or folders; none is the default weights.
        rivals_python: interpreter of the environment with Nevergrad and BoTorch; without it they are left out.
        repeats: rounds; contestants take turns.
    """
    from samplers_time import measure

    names = (*OURS, *HOSTED, *(EXTERNAL[:2] if rivals_python else ()))
    measure(list(_rivals(names, ours, rivals_python)), repeats, results.RESULTS)


def table(
    ours: str = "",
    results_folder: tuple[Path, ...] = (results.RESULTS,),
    pictures: Path | None = None,
) -> None:
    """Print the tables with what was asked and whether it is met, and draw the regret curves.

    Args:
        ours: the label to judge, such as rnn-0123abcd; none is the only one there is.
        results_folder: where runs are kept; several are read together.
        pictures: a folder for the curves; by default the first results folder.
    """
    from samplers_plots import draw
    from samplers_tables import show

    found = show(results_folder, ours)
    draw(found, pictures or results_folder[0])


if __name__ == "__main__":
    try:
        tyro.extras.subcommand_cli_from_dict({"run": run, "time": time, "table": table})
    except UserError as error:
        sys.exit(str(error))

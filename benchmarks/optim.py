"""A learned optimizer beside tuned ones: on held-out problems of its corpus, on networks it never saw, in long runs.

    python benchmarks/optim.py corpus --rivals adam rmsprop
    python benchmarks/optim.py networks --rivals adam rmsprop sgd schedulefree muon
    python benchmarks/optim.py corpus --rivals --ours hierarchical-rnn --untrained
    python benchmarks/optim.py networks --rivals --ours hierarchical-rnn --untrained
    python benchmarks/optim.py long --rivals adam --ours hierarchical-rnn
    python benchmarks/optim.py table

Runs are kept (benchmarks/results/optim/*.jsonl): the same command again adds what is missing. Rivals get a sweep of
learning rates, ours gets none. The networks are in optim_networks.py, what is run on the corpus in optim_corpus.py.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import tyro
from optim_networks import TASKS, Built

from factotum.core.checks import UserError
from factotum.recipes.bench_rivals import Rival, choose, learned
from factotum.recipes.bench_runs import Protocol, require_same_task, sweep

RESULTS = Path(__file__).parent / "results" / "optim"
LONG = ("mlp-digits", "conv-digits")


def networks(
    rivals: tuple[str, ...] = ("adam",),
    ours: tuple[str, ...] = (),
    untrained: bool = False,
    only: str = "",
    steps: int = 2000,
    seeds: int = 5,
    rates: int = 10,
    finalists: int = 3,
    results_folder: Path = RESULTS,
) -> None:
    """Train the networks that no meta-training saw.

    Args:
        rivals: any of adam, rmsprop, sgd, schedulefree, muon.
        ours: weights: shipped names or folders.
        untrained: the learned optimizer before its meta-training, too.
        only: tasks whose name starts with this, such as mlp or gpt-text.
        steps: of each run.
        seeds: runs of each rival at its best rates.
        rates: learning rates of a sweep; more are tried where the best is at an end.
        finalists: rates that are run with all seeds.
        results_folder: where the runs are kept.
    """
    protocol = Protocol(steps, seeds, finalists)
    for name, build in _tasks(TASKS, only):
        _measure(
            results_folder / f"networks.{name}.jsonl", build, rivals, rates, _ours(ours, untrained), protocol
        )


def long(
    rivals: tuple[str, ...] = ("adam",),
    ours: tuple[str, ...] = (),
    untrained: bool = False,
    only: str = "",
    steps: int = 100_000,
    seeds: int = 3,
    rates: int = 5,
    results_folder: Path = RESULTS,
) -> None:
    """Train small networks for very many steps: does the loss stay down?

    Args:
        rivals: any of adam, rmsprop, sgd, schedulefree, muon.
        ours: weights: shipped names or folders.
        untrained: the learned optimizer before its meta-training, too.
        only: tasks whose name starts with this.
        steps: of each run.
        seeds: runs of each.
        rates: learning rates of a sweep.
        results_folder: where the runs are kept.
    """
    protocol = Protocol(steps, seeds, finalists=1)
    for name, build in _tasks({name: TASKS[name] for name in LONG}, only):
        _measure(
            results_folder / f"long.{name}.jsonl", build, rivals, rates, _ours(ours, untrained), protocol
        )


def corpus(
    rivals: tuple[str, ...] = ("adam", "rmsprop"),
    ours: tuple[str, ...] = (),
    untrained: bool = False,
    only: str = "",
    steps: int = 1000,
    instances: int = 16,
    rates: int = 10,
    results_folder: Path = RESULTS,
) -> None:
    """Held-out instances of every family of the corpus.

    Args:
        rivals: any of adam, rmsprop.
        ours: weights: shipped names or folders.
        untrained: the learned optimizer before its meta-training, too.
        only: problems whose name starts with this.
        steps: of each run.
        instances: of each problem, side by side.
        rates: learning rates of a sweep.
        results_folder: where the runs are kept.
    """
    from optim_corpus import contestants, measure

    measure(contestants(rivals, rates, ours, untrained), only, steps, instances, results_folder)


def table(
    ours: str = "",
    results_folder: tuple[Path, ...] = (RESULTS,),
    pictures: Path | None = None,
) -> None:
    """Print the tables with what was asked and whether it is met, and draw the curves.

    Args:
        ours: the label to judge, such as hierarchical-rnn-0123abcd; none is the only one there is.
        results_folder: where runs are kept; several are read together.
        pictures: a folder for the curves; by default the first results folder.
    """
    from optim_plots import draw
    from optim_tables import show

    found = show(results_folder, ours)
    draw(found, pictures or results_folder[0])


def _tasks(tasks: dict[str, Callable[[], Built]], only: str) -> list[tuple[str, Callable[[], Built]]]:
    chosen = [(name, build) for name, build in tasks.items() if name.startswith(only)]
    if not chosen:
        raise UserError(f"--only: expected the beginning of one of {', '.join(tasks)}, got {only!r}")
    return chosen


def _ours(weights: Iterable[str], untrained: bool) -> list[Rival]:
    found = [learned(one) for one in weights]
    if untrained:
        from optim_corpus import untrained_core

        found.append(learned(untrained_core(), "untrained"))
    return found


def _measure(
    file: Path,
    build: Callable[[], Built],
    names: Sequence[str],
    rates: int,
    ours: Sequence[Rival],
    protocol: Protocol,
) -> None:
    rivals, left_out = choose(names, rates, require_same_task(file, build).model)
    for line in left_out:
        print(f"{file.stem}: {line}", file=sys.stderr)
    sweep(file, build, [*rivals, *ours], protocol, file.stem)


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"corpus": corpus, "networks": networks, "long": long, "table": table}
        )
    except UserError as error:
        sys.exit(str(error))

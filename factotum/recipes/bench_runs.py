"""The runs of `factotum bench`, one JSON line each, so that a kill costs one run and nothing is run twice.

A sweep goes in stages, each planned from the runs that are there: every learning rate with the first seed; further
rates while the best one is at an end; the best few with all seeds. A rival without rates runs once a seed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from factotum.core.checks import UserError
from factotum.core.files import append_json_line, read_json_lines
from factotum.recipes.bench_rivals import Optimizers, Rival, parameters, rounded
from factotum.recipes.bench_task import Build, Task, first_loss, make_task, seed_everything
from factotum.training.progress import Progress

Row = dict[str, Any]

LAST = 100
"""Steps at the end whose losses are averaged, at most a tenth of the run."""
POINTS = 100
"""Points of a stored curve."""
AFTER = 20
"""Batches on which the trained model is measured."""
CHECK_EVERY = 50
"""Steps between looks at whether losses are still finite: a look waits for the device."""
EXTENSIONS = 4
"""Rates that a sweep may add at its ends."""


@dataclass(frozen=True)
class Protocol:
    """How a sweep goes.

    Args:
        steps: of each run.
        seeds: runs with seeds 0, 1, ...
        finalists: rates that are run with all seeds.
        device: where.
    """

    steps: int
    seeds: int
    finalists: int = 3
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "finalists"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Run:
    """One training run of a rival: its learning rate (None: it has none) and its seed."""

    rate: float | None
    seed: int


def score(row: Row) -> float:
    """What runs are compared by: the mean loss of the last steps; infinite where losses stopped being finite."""
    return math.inf if row["last"] is None else row["last"]


def last_steps(steps: int) -> int:
    """How many steps at the end of a run are averaged.

    >>> last_steps(2000), last_steps(50)
    (100, 5)
    """
    return max(1, min(LAST, steps // 10))


def planned(rival: Rival, rows: Sequence[Row], protocol: Protocol) -> list[Run]:
    """The runs still to be made, as far as those made so far allow to say; none: the rival is finished.

    >>> rival = Rival("sgd", make=None, rates=(0.01, 0.1, 1.0))
    >>> planned(rival, [], Protocol(steps=10, seeds=2))[0]
    Run(rate=0.01, seed=0)
    >>> rows = [{"rate": r, "seed": 0, "last": l} for r, l in ((0.01, 3.0), (0.1, 1.0), (1.0, None))]
    >>> planned(rival, rows, Protocol(steps=10, seeds=2, finalists=1))
    [Run(rate=0.1, seed=1)]
    """
    made = {Run(row["rate"], row["seed"]): row for row in rows}
    if not rival.rates:
        return [run for seed in range(protocol.seeds) if (run := Run(None, seed)) not in made]
    if missing := [run for rate in rival.rates if (run := Run(rate, 0)) not in made]:
        return missing
    tried = sorted((score(row), rate) for (rate, row) in _first_seed(made, rival))
    further = _beyond(rival, [rate for _, rate in tried])
    if further is not None:
        return [Run(further, 0)]
    best = [rate for value, rate in tried[: protocol.finalists] if math.isfinite(value)] or [tried[0][1]]
    chosen = [*best, *(rate for rate in rival.always if rate not in best)]
    return [run for rate in chosen for seed in range(protocol.seeds) if (run := Run(rate, seed)) not in made]


def _first_seed(made: dict[Run, Row], rival: Rival) -> Iterator[tuple[float, Row]]:
    for run, row in made.items():
        if (
            run.rate is not None
            and run.seed == 0
            and (run.rate in rival.rates or run.rate not in rival.always)
        ):
            yield run.rate, row


def _beyond(rival: Rival, tried: Sequence[float]) -> float | None:
    """The next rate outward, where the best one tried (the first) is at an end of the sweep."""
    if len(rival.rates) < 2 or len(tried) >= len(rival.rates) + EXTENSIONS:
        return None
    ratio = min(10.0, (rival.rates[-1] / rival.rates[0]) ** (1 / (len(rival.rates) - 1)))
    if tried[0] == max(tried):
        return rounded(tried[0] * ratio)
    return rounded(tried[0] / ratio) if tried[0] == min(tried) else None


def play(
    rival: Rival, run: Run, task: Task, steps: int, after_step: Callable[[], None] = lambda: None
) -> Row:
    """Train a fresh task for `steps` steps.

    Returns:
        `first`, `last`: the mean of the last steps' losses (None when one was not finite), `after`: the mean loss
        of the model on further batches, `curve`: mean losses of `every` steps each, `ms`: of a step.
    """
    optimizer = rival.make(task.model, run.rate or 0.0, steps, run.seed)
    seed_everything(run.seed)
    optimizer.mode(training=True)
    stream = task.stream()
    losses = torch.full((steps,), math.nan, device=task.device)
    start = time.perf_counter()
    done = 1
    for step in range(steps):
        optimizer.zero_grad()
        loss = task.value(next(stream))
        loss.backward()
        losses[step] = loss.detach()
        if not _stepped(optimizer, task):
            losses[step] = math.nan
            break
        done = step + 1
        after_step()
        if done % CHECK_EVERY == 0 and not bool(losses[max(0, done - CHECK_EVERY) : done].isfinite().all()):
            break
    values = losses.double().cpu()
    seconds = time.perf_counter() - start
    finite = bool(values.isfinite().all())
    optimizer.mode(training=False)
    every = math.ceil(steps / POINTS)
    return {
        "rival": rival.label,
        "rate": run.rate,
        "seed": run.seed,
        "steps": steps,
        "first": short(values[0].item()),
        "last": short(values[-last_steps(steps) :].mean().item()) if finite else None,
        "after": _after(task, stream) if finite else None,
        "every": every,
        "curve": [short(part.mean().item()) for part in values.split(every) if bool(part.isfinite().all())],
        "ms": short(1000 * seconds / done),
    }


def _stepped(optimizer: Optimizers, task: Task) -> bool:
    """Step; False where the optimizer refused, because the gradients are no longer finite."""
    try:
        optimizer.step()
    except UserError:
        given = [parameter.grad for parameter in parameters(task.model) if parameter.grad is not None]
        if all(bool(gradient.isfinite().all()) for gradient in given):
            raise
        return False
    return True


def _after(task: Task, stream: Iterator[Any]) -> float | None:
    with torch.no_grad():
        return short(sum(task.value(next(stream)).item() for _ in range(AFTER)) / AFTER)


def short(value: float) -> float | None:
    """Five significant digits; None for what is not finite.

    >>> short(1 / 3), short(math.inf)
    (0.33333, None)
    """
    return float(f"{value:.5g}") if math.isfinite(value) else None


def load(file: Path, label: str, steps: int) -> list[Row]:
    """The runs of a rival made so far."""
    return [row for row in read_json_lines(file) if row["rival"] == label and row["steps"] == steps]


def require_same_task(file: Path, build: Build, device: str = "cpu") -> Task:
    """The task of seed 0, if stored runs were made on it.

    Raises:
        UserError: a stored run of seed 0 began with another loss, or what `make_task` and `first_loss` raise.
    """
    task = make_task(build, 0, device)
    seed_everything(0)
    first = first_loss(task)
    for row in read_json_lines(file):
        if row["seed"] == 0 and not math.isclose(row["first"], first, rel_tol=1e-2, abs_tol=1e-6):
            raise UserError(
                f"{file}: expected runs on a model that begins with loss {first:.5g}, got one that began with "
                f"{row['first']:.5g}; remove the file and run again"
            )
    return task


def expected_runs(rival: Rival, protocol: Protocol) -> int:
    """How many runs a rival will have, unless its sweep grows."""
    if not rival.rates:
        return protocol.seeds
    more = min(protocol.finalists, len(rival.rates)) + len(rival.always)
    return len(rival.rates) + more * (protocol.seeds - 1)


def sweep(
    file: Path, build: Build, rivals: Sequence[Rival], protocol: Protocol, title: str, quiet: bool = False
) -> None:
    """Make every run that is missing, each a line in `file`."""
    total = sum(expected_runs(rival, protocol) for rival in rivals)
    there = sum(len(load(file, rival.label, protocol.steps)) for rival in rivals)
    steps = protocol.steps
    with Progress(total * steps, title, "steps", done=min(there, total) * steps, quiet=quiet) as bar:
        for rival in rivals:
            while runs := planned(rival, load(file, rival.label, steps), protocol):
                _make_room(bar, len(runs) * steps)
                bar.advance(0, note=f"{rival.label}{_at(runs[0])}, seed {runs[0].seed}")
                task = make_task(build, runs[0].seed, protocol.device)
                row = play(rival, runs[0], task, steps, bar.advance)
                append_json_line(file, row)


def _make_room(bar: Progress, left: int) -> None:
    """More steps in all, where a sweep has grown."""
    if bar.done + left > bar.total:
        bar.total = bar.done + left
        if bar.bar is not None:
            bar.bar.update(bar.bar.task_ids[0], total=bar.total)


def _at(run: Run) -> str:
    return "" if run.rate is None else f" at {run.rate:g}"

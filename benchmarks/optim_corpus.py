"""Held-out instances of the corpus: the learned optimizer beside Adam and RMSProp, copies and rates side by side.

Instances are drawn from seeds made of the problem's name, so that every contestant has the same; those of
meta-training are drawn from others. A row holds one problem, contestant and learning rate: the mean log loss (as in
meta-training, see `factotum.optim.objective`) of each instance. Losses that are not finite count as 1e30.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factotum.core.checks import UserError
from factotum.core.files import append_json_line, read_json_lines
from factotum.core.seeding import torch_generator
from factotum.optim.config import shipped_config
from factotum.optim.model import HierarchicalRNNCore
from factotum.optim.objective import EPSILON, TaskGroup, log_loss_objective, start, unroll
from factotum.optim.store import load_core, weights_hash
from factotum.recipes.bench_rivals import rounded, sweep_rates
from factotum.training.progress import Progress
from factotum.worlds.problems import Instances, Problem, all_problems

Row = dict[str, Any]
LOWEST = 1e-3
"""First of the learning rates, half a decade apart: problems of the corpus differ much in scale."""
EXTENSIONS = 4
BYTES = 2.5e8
"""Data of the copies that run side by side, at most."""
LARGE, HUGE = 5e5, 2e6
"""Numbers of data from which a problem has a quarter, an eighth of the instances."""
POINTS = 25
WORST = 1e30

OPTIMIZERS = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}


@dataclass(frozen=True)
class Contestant:
    """A label and learning rates, or weights, which have none."""

    label: str
    rates: tuple[float | None, ...] = (None,)
    core: HierarchicalRNNCore | None = field(default=None, compare=False)


def untrained_core() -> HierarchicalRNNCore:
    """The shipped configuration before meta-training; it optimizes a little, by its construction."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return HierarchicalRNNCore(shipped_config()).eval().requires_grad_(False)


def contestants(rivals: Iterable[str], rates: int, ours: Iterable[str], untrained: bool) -> list[Contestant]:
    """Those asked for.

    Raises:
        UserError: a rival that is none, or weights that are not there.
    """
    found = []
    for name in rivals:
        if name not in OPTIMIZERS:
            raise UserError(f"--rivals: expected any of {', '.join(OPTIMIZERS)}, got {name!r}")
        found.append(Contestant(name, sweep_rates(LOWEST, rates)))
    cores = [("hierarchical-rnn", load_core(one)) for one in ours]
    if untrained:
        cores.append(("untrained", untrained_core()))
    return found + [Contestant(f"{name}-{weights_hash(core)[:8]}", core=core) for name, core in cores]


def copies_of(problem: Problem, instances: int) -> int:
    """How many instances a problem has: fewer where data are large."""
    numbers = _numbers(problem)
    return max(1, instances // (8 if numbers > HUGE else 4 if numbers > LARGE else 1))


def _numbers(problem: Problem) -> int:
    return sum(math.prod(shape) for shape in problem.data_shapes.values())


def held_out(problem: Problem, instances: int) -> tuple[Instances, tuple[Tensor, ...]]:
    """Instances and their start."""
    copies = copies_of(problem, instances)
    drawn = problem.draw(copies, torch_generator("held-out", problem.name))
    return drawn, drawn.initial(torch_generator("held-out", problem.name, "start"))


def repeated(
    problem: Problem, drawn: Instances, begun: Sequence[Tensor], times: int
) -> tuple[Instances, list]:
    """The same instances several times, one after another: once for each learning rate."""
    data = {name: tensor.repeat(times, *[1] * (tensor.dim() - 1)) for name, tensor in drawn.tensors().items()}
    return problem.restore(data), [part.repeat(times, *[1] * (part.dim() - 1)) for part in begun]


@torch.no_grad()
def play_swept(kind: type, rates: Sequence[float], drawn: Instances, begun: list, steps: int) -> Tensor:
    """Losses (T, R, B) of an elementwise optimizer at several rates, after each step.

    Adam's and RMSProp's steps are proportional to the learning rate: at 1 they are taken by zeros, which then hold
    the step, and scaled for each copy.
    """
    generator = torch_generator("held-out", drawn.problem.name, "noise")
    copies = drawn.batch // len(rates)
    moves = [torch.zeros_like(part, requires_grad=True) for part in begun]
    optimizer = kind(moves, lr=1.0)
    scale = torch.tensor(rates).repeat_interleave(copies)
    losses = torch.empty(steps, drawn.batch)
    for step in range(steps):
        for move, gradient in zip(moves, drawn.gradient(begun, generator), strict=True):
            move.grad = gradient
        optimizer.step()
        for part, move in zip(begun, moves, strict=True):
            part.addcmul_(move, scale.view(-1, *[1] * (part.dim() - 1)))
            move.zero_()
        losses[step] = drawn.loss(begun)
    return losses.view(steps, len(rates), copies)


@torch.no_grad()
def play_learned(core: HierarchicalRNNCore, drawn: Instances, begun: Sequence[Tensor], steps: int) -> Tensor:
    """Losses (T, 1, B) of the learned optimizer, after each step."""
    tasks = TaskGroup([drawn])
    run = start(
        core, tasks.layout, tasks.pack([begun]), torch_generator("held-out", drawn.problem.name, "rates")
    )
    generator = torch_generator("held-out", drawn.problem.name, "noise")
    return unroll(core, tasks, run, steps, generator).losses_TB[:, None]


def rows_of(
    problem: Problem, contestant: Contestant, rates: Sequence, instances: int, steps: int
) -> list[Row]:
    """Run a problem at some rates, together."""
    drawn, begun = held_out(problem, instances)
    first_B = drawn.loss(begun)
    wide, parts = repeated(problem, drawn, begun, len(rates))
    if contestant.core is not None:
        losses_TRB = play_learned(contestant.core, wide, parts, steps)
    else:
        losses_TRB = play_swept(OPTIMIZERS[contestant.label], rates, wide, parts, steps)
    finite_R = losses_TRB.isfinite().all(0).float().mean(-1)
    losses_TRB = losses_TRB.nan_to_num(WORST, WORST).clamp_max(WORST)
    lowest = min(problem.minimum or 0.0, 0.0)
    at = torch.linspace(0, steps - 1, min(steps, POINTS)).long()
    rows = []
    for index, rate in enumerate(rates):
        losses_TB = losses_TRB[:, index]
        values_B = log_loss_objective(losses_TB, first_B, lowest)
        ratio_TB = (losses_TB[at] - lowest).clamp_min(0) / (first_B - lowest + EPSILON) + EPSILON
        rows.append(
            {
                "problem": problem.name, "family": problem.family, "rival": contestant.label, "rate": rate,
                "steps": steps, "instances": instances, "probe": float(f"{first_B[0].item():.5g}"),
                "finite": round(finite_R[index].item(), 4),
                "values": [round(value, 3) for value in values_B.tolist()],
                "curve": [round(value, 3) for value in ratio_TB.log().mean(1).tolist()],
            }
        )  # fmt: skip
    return rows


def load(file: Path, label: str, steps: int, instances: int) -> dict[tuple[str, float | None], Row]:
    """Rows of a contestant by problem and rate."""
    rows = [row for row in read_json_lines(file) if row["rival"] == label]
    return {
        (row["problem"], row["rate"]): row
        for row in rows
        if (row["steps"], row["instances"]) == (steps, instances)
    }


def best_rate(rows: Iterable[Row]) -> tuple[float | None, float]:
    """The rate whose mean over a family's problems is lowest, and that mean.

    >>> best_rate([{"rate": 0.1, "values": [-1.0, -2.0]}, {"rate": 1.0, "values": [-1.0, -1.0]}])
    (0.1, -1.5)
    """
    means: dict[float | None, list[float]] = {}
    for row in rows:
        means.setdefault(row["rate"], []).append(sum(row["values"]) / len(row["values"]))
    found = {rate: sum(values) / len(values) for rate, values in means.items()}
    best = min(found, key=lambda rate: found[rate])
    return best, found[best]


def _beyond(rates: Sequence[float], best: float, grid: int) -> float | None:
    """The next rate outward where the best one is at an end."""
    if len(rates) >= grid + EXTENSIONS or grid < 2 or best not in (min(rates), max(rates)):
        return None
    ratio = 10 ** (4.5 / (grid - 1))
    return rounded(best * ratio if best == max(rates) else best / ratio)


def measure(found: Sequence[Contestant], only: str, steps: int, instances: int, folder: Path) -> None:
    """Make the runs that are missing.

    Raises:
        UserError: no problem's name starts with `only`, or stored runs are of other instances.
    """
    problems = [problem for problem in all_problems() if problem.name.startswith(only)]
    if not problems:
        raise UserError(f"--only: expected the beginning of a problem's name, got {only!r}")
    families = {p.family: [q for q in problems if q.family == p.family] for p in problems}
    cheap_first = sorted(families.items(), key=lambda one: sum(_numbers(p) + p.size for p in one[1]))
    total = sum(len(contestant.rates) * len(problems) for contestant in found)
    with Progress(total, "corpus", "runs") as bar:
        for family, members in cheap_first:
            file = folder / f"corpus.{family}.jsonl"
            _refuse_others(file, members, instances)
            for contestant in found:
                bar.advance(0, note=f"{family} {contestant.label}")
                _measure_family(file, members, contestant, steps, instances, bar)


def _measure_family(
    file: Path, members: list[Problem], contestant: Contestant, steps: int, instances: int, bar: Progress
) -> None:
    rates = list(contestant.rates)
    counted = len(rates) * len(members)
    while True:
        there = load(file, contestant.label, steps, instances)
        for problem in members:
            missing = [rate for rate in rates if (problem.name, rate) not in there]
            copies = copies_of(problem, instances)
            together = max(1, int(BYTES / (4 * copies * max(1, _numbers(problem)))))
            for first in range(0, len(missing), together):
                for row in rows_of(problem, contestant, missing[first : first + together], instances, steps):
                    append_json_line(file, row)
            bar.advance(min(counted, len(rates)))
            counted -= min(counted, len(rates))
        names = {problem.name for problem in members}
        rows = [row for key, row in load(file, contestant.label, steps, instances).items() if key[0] in names]
        best, _ = best_rate(row for row in rows if row["rate"] in rates)
        further = None if best is None else _beyond([r for r in rates if r], best, len(contestant.rates))
        if further is None:
            return
        rates.append(further)


def _refuse_others(file: Path, members: Sequence[Problem], instances: int) -> None:
    probes = {row["problem"]: row["probe"] for row in read_json_lines(file) if row["instances"] == instances}
    for problem in members:
        if problem.name in probes:
            drawn, begun = held_out(problem, instances)
            first = drawn.loss(begun)[0].item()
            if not math.isclose(first, probes[problem.name], rel_tol=1e-3, abs_tol=1e-6):
                raise UserError(
                    f"{file}: expected runs on {problem.name} that begin with {first:.5g}, got "
                    f"{probes[problem.name]:.5g}; remove the file and run again"
                )

"""Results of `benchmarks/samplers.py`, one JSON line a run, so that a kill costs one run and nothing is run twice.

A file holds one suite of one rival. A line keeps the regret's trajectory as its improvements alone:
`[[1, 3.2], [4, 0.7]]` is 3.2 for evaluations 1 to 3, and 0.7 from the fourth on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from samplers_problems import Problem

from factotum.core.checks import UserError
from factotum.core.files import append_json_line, read_json_lines

RESULTS = Path(__file__).parent / "results" / "samplers"

Row = dict[str, Any]
Key = tuple[str, int, int]


def key(problem: Problem) -> Key:
    """What a run is known by within its file: problem, instance, evaluations it was told it has."""
    return problem.name, problem.instance, problem.budget


def path(folder: Path, suite: str, rival: str) -> Path:
    """The file of one suite of one rival.

    >>> path(Path("results"), "gp", "tpe").as_posix()
    'results/gp.tpe.jsonl'
    """
    return folder / f"{suite}.{rival}.jsonl"


def improvements(regrets: Sequence[float]) -> list[list[float]]:
    """The running minimum as pairs (evaluation, regret), to six significant digits.

    >>> improvements([3.0, 5.0, 1.0, 2.0])
    [[1, 3.0], [3, 1.0]]
    """
    pairs: list[list[float]] = []
    best = np.inf
    for number, regret in enumerate(regrets, start=1):
        if regret < best:
            best = regret
            pairs.append([number, float(f"{regret:.6g}")])
    return pairs


def trajectory(row: Row) -> np.ndarray:
    """The best regret after 1, 2, ... evaluations.

    >>> trajectory({"evaluations": 4, "regret": [[1, 3.0], [3, 1.0]]}).tolist()
    [3.0, 3.0, 1.0, 1.0]
    """
    best = np.full(row["evaluations"], np.inf)
    for number, regret in row["regret"]:
        best[int(number) - 1 :] = regret
    return best


def row(problem: Problem, rival: str, values: Sequence[float], seconds: float) -> Row:
    """One run's line; `seconds` is the CPU time of all its suggestions."""
    regrets = [(value - problem.optimum) / problem.unit for value in values]
    return {
        "problem": problem.name,
        "instance": problem.instance,
        "rival": rival,
        "seed": problem.seed,
        "probe": float(f"{problem.probe:.6g}"),
        "evaluations": problem.budget,
        "ms": float(f"{1000 * seconds / len(values):.3g}"),
        "regret": improvements(regrets),
    }


def load(folder: Path, suite: str, rival: str) -> dict[Key, Row]:
    """The runs made so far."""
    rows = read_json_lines(path(folder, suite, rival))
    return {(row["problem"], row["instance"], row["evaluations"]): row for row in rows}


def store(folder: Path, suite: str, rival: str, line: Row) -> None:
    """Append one run."""
    append_json_line(path(folder, suite, rival), line)


def rivals(folder: Path, suite: str) -> list[str]:
    """Names of the rivals that have results for a suite."""
    return sorted(file.name[len(suite) + 1 : -len(".jsonl")] for file in folder.glob(f"{suite}.*.jsonl"))


def missing(found: dict[Key, Row], wanted: Sequence[Problem], file: Path) -> list[Problem]:
    """Problems without a run.

    Raises:
        UserError: a stored run was made on another function of the same name.
    """
    left = []
    for problem in wanted:
        line = found.get(key(problem))
        if line is None:
            left.append(problem)
        elif not np.isclose(line["probe"], problem.probe, rtol=1e-4, atol=1e-9):
            raise UserError(
                f"{file}: expected runs on {problem.name} instance {problem.instance} with value "
                f"{problem.probe:.6g} at the probe, got {line['probe']}; remove the file and run again"
            )
    return left

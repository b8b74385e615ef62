"""Results of `benchmarks/generalist.py`: one JSON line an arm and seed, the table over them, the scaling curve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from factotum.core.checks import UserError
from factotum.core.files import append_json_line, read_json_lines
from factotum.recipes.evaluate import references
from factotum.recipes.generalist_plan import Plan
from factotum.training import statistics
from factotum.training.records import checkpoint_hash, read_episodes
from factotum.training.summary import family_of

RESULTS = Path(__file__).parent / "results" / "generalist"
RUNS = "runs.jsonl"

ASKED = {
    "base": "",
    "scalar": "fused or per-scalar tokens",
    "no-prompts": "prompts in training",
    "rounds-0": "DAgger rounds: none",
    "rounds-1": "DAgger rounds: one",
    "adaptive": "adaptive sampling",
    "size-1m": "size: 1 M",
    "size-25m": "size: 25 M",
    "hierarchical-rnn": "the learned optimizer beside AdamW",
}
"""What each arm is to say."""

SIZES = ("size-1m", "base", "size-25m")

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One arm with one seed.

    >>> Job("scalar", 1).name
    'scalar.1'
    """

    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}.{self.seed}"


def load(folder: Path) -> dict[Job, Row]:
    """All that is finished; of one that was made again the last."""
    return {Job(row["arm"], row["seed"]): row for row in read_json_lines(folder / RUNS)}


def add(folder: Path, job: Job, plan: Plan, scale: float, seconds: float) -> None:
    """Note a finished arm: every episode's normalised score, what it cost, and tasks and words that it never saw."""
    budget, version = plan.budget, checkpoint_hash(plan.model)
    append_json_line(
        folder / RUNS,
        {
            "arm": job.arm,
            "seed": job.seed,
            "scale": scale,
            "parameters": budget.parameters,
            "positions": budget.positions,
            "flop": budget.flop,
            "seconds": round(seconds, 1),
            "scores": normalised_scores(plan.run, "gato", version),
            "left_out": {
                label: normalised_scores(plan.run / "left-out", label, version)
                for label in ("gato", "gato+prompt")
            },
            "other_words": normalised_scores(plan.run / "words", "gato, words: held-out", version),
        },
    )


def normalised_scores(run: Path, label: str, version: str) -> dict[str, list[float]]:
    """By task the normalised scores of the episodes that exactly these weights played."""
    found: dict[str, dict[int, float]] = {}
    for line in read_episodes(run / "evaluation"):
        if line["agent"] == label and line["checkpoint"].startswith(version) and not line["failed"]:
            ends = references(line["task"])
            score = statistics.normalised_score(line["score"], ends["random"].score, ends["expert"].score)
            found.setdefault(line["task"], {})[line["seed"]] = round(float(score), 6)
    return {task: list(scores.values()) for task, scores in sorted(found.items())}


def pooled(rows: Iterable[Mapping[str, list[float]]]) -> list[np.ndarray]:
    """One array a task, of the episodes of all seeds.

    >>> [scores.tolist() for scores in pooled([{"a": [0.0], "b": [1.0]}, {"a": [0.5]}])]
    [[0.0, 0.5], [1.0]]
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        for task, scores in row.items():
            found.setdefault(task, []).extend(scores)
    return [np.array(scores) for scores in found.values()]


def mean_and_interval(rows: Iterable[Mapping[str, list[float]]]) -> tuple[float, float, float] | None:
    """Mean over tasks with its 95 % bootstrap interval over episodes and seeds; None where there is nothing."""
    tasks = pooled(rows)
    if not tasks:
        return None
    low, high = statistics.stratified_bootstrap(tasks, statistics.mean)
    return float(statistics.mean(tasks)), low, high


def table(folder: Path) -> None:
    """Print asked beside measured.

    Raises:
        UserError: nothing is finished.
    """
    rows = load(folder)
    if not rows:
        raise UserError(f"expected finished arms in {folder / RUNS}, found none")
    arms = [arm for arm in ASKED if any(job.arm == arm for job in rows)]
    families = list(dict.fromkeys(family_of(task) for row in rows.values() for task in row["scores"]))
    screen = Table(box=box.SIMPLE_HEAD, title="normalised scores, mean over tasks [95 %]")
    head = (
        "arm",
        "asked",
        "seeds",
        "M parameters",
        "FLOP",
        "all tasks",
        "left out",
        "+ prompt",
        "other words",
    )
    for name in (*head, *families):
        screen.add_column(name)
    for arm in arms:
        mine = [row for job, row in rows.items() if job.arm == arm]
        screen.add_row(*_cells(arm, mine, families))
    Console(width=240, highlight=False).print(screen)


def _cells(arm: str, rows: list[Row], families: list[str]) -> list[str]:
    first = rows[0]
    parts = [
        [row["scores"] for row in rows],
        *([row["left_out"][label] for row in rows] for label in ("gato", "gato+prompt")),
        [row["other_words"] for row in rows],
    ]
    by_family = [
        [{t: s for t, s in row["scores"].items() if family_of(t) == family} for row in rows]
        for family in families
    ]
    cost = [str(len(rows)), f"{first['parameters'] / 1e6:.2f}", f"{first['flop']:.1e}"]
    return [arm, ASKED[arm], *cost, *(_written(mean_and_interval(part)) for part in [*parts, *by_family])]


def _written(found: tuple[float, float, float] | None) -> str:
    return "–" if found is None else f"{found[0]:.2f} [{found[1]:.2f}, {found[2]:.2f}]"


def draw(folder: Path) -> None:
    """Write scaling.png, score against compute on log axes, where two sizes or more are finished."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = load(folder)
    points = []
    for arm in SIZES:
        mine = [row for job, row in rows.items() if job.arm == arm]
        found = mean_and_interval(row["scores"] for row in mine)
        if found is not None and found[0] > 0:
            points.append((mine[0]["flop"], mine[0]["parameters"], *found))
    if len(points) < 2:
        return
    flop, parameters, mean, low, high = map(np.array, zip(*sorted(points), strict=True))
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    axes.errorbar(flop, mean, [mean - low, high - mean], marker="o", capsize=3)
    for x, y, count in zip(flop, mean, parameters, strict=True):
        axes.annotate(f"{count / 1e6:.1f} M", (x, y), textcoords="offset points", xytext=(6, -10))
    axes.set(xscale="log", yscale="log", xlabel="FLOP of training", ylabel="mean normalised score")
    figure.savefig(folder / "scaling.png", dpi=90)
    plt.close(figure)
    print(f"written to {folder / 'scaling.png'}")

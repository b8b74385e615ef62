"""Four experiments with GATS, each beside every other way of joining the same networks at as many trained parameters.

    python benchmarks/gats_experiments.py language                       # every arm, three seeds
    python benchmarks/gats_experiments.py language --arms gats scratch --seeds 0 --part 0 2
    python benchmarks/gats_experiments.py language --sweep               # windows and numbers of layers, seed 0
    python benchmarks/gats_experiments.py table

Files are those in `examples/gats`. What is needed first (vision encoders, and what reads and draws scenes) is trained
where it is missing. A finished run is one line in `results/gats/EXPERIMENT.jsonl`, an unfinished one goes on from its
checkpoint: the same command again makes what is missing. `--set` changes fields of the file for trials, whose lines go
to the folder that `--results` names.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from pathlib import Path
from typing import Any, Literal

import tyro
from gats_arms import EXPERIMENTS, Experiment
from gats_tables import print_table

from factotum.core.checks import UserError, unknown
from factotum.core.files import append_json_line, read_json_lines
from factotum.recipes import compose

RESULTS = Path(__file__).parent / "results" / "gats"


def run(
    experiment: Experiment, runs: Path, arms: dict[str, dict[str, Any]], seeds: tuple[int, ...],
    part: tuple[int, int], changes: tuple[str, ...], results: Path,
) -> None:  # fmt: skip
    """Train and measure what is not on record."""
    prepare(experiment, runs, changes)
    jobs = [(arm, seed) for seed in seeds for arm in arms]
    for arm, seed in jobs[part[0] :: part[1]]:
        path = results / f"{experiment.name}.jsonl"
        if any((line["arm"], line["seed"]) == (arm, seed) for line in read_json_lines(path)):
            continue
        started, spent = time.perf_counter(), time.process_time()
        found = one(experiment, runs, arm, arms[arm], seed, changes)
        line = {
            "experiment": experiment.name, "arm": arm, "seed": seed, "sweep": arm not in experiment.arms,
            "changes": list(changes), "seconds": round(time.perf_counter() - started),
            "core_seconds": round(time.process_time() - spent), **found,
        }  # fmt: skip
        append_json_line(path, line)


def prepare(experiment: Experiment, runs: Path, changes: tuple[str, ...]) -> None:
    """Train what the components come from, where it is missing."""
    quick = {"steps": 4, "episodes": 4, "device": "cpu"} if "quick" in changes else {}
    for name, recipe, options in experiment.before:
        folder = runs / name
        if (folder / "model" / "config.json").is_file():
            continue
        known = recipe.Args.__dataclass_fields__
        given = {**options, **{key: value for key, value in quick.items() if key in known}}
        if given["what"] == "pictures":
            given["codes"] = runs / "codes" / "model"
        recipe.main(recipe.Args(out=folder, **given))


def one(
    experiment: Experiment, runs: Path, arm: str, fields: dict[str, Any], seed: int, changes: tuple[str, ...]
) -> dict[str, Any]:
    """One arm and seed: trained, measured; what RUN/evaluation.json holds."""
    words = [f"{name}={toml(value)}" for name, value in {**fields, "training.seed": seed}.items()]
    words += experiment.sources(runs) + [change for change in changes if change != "quick"]
    if fields.get("join.mode") in ("cross-attention", "late-fusion"):
        words.append(f"join.parameters={wanted(experiment, runs, changes)}")
    folder = runs / experiment.name / f"{arm}-{seed}"
    found = compose.main(compose.Args(experiment.file, folder, tuple(words)))
    if found is None:
        raise UserError(f"{folder}: expected a finished run")
    return found


def wanted(experiment: Experiment, runs: Path, changes: tuple[str, ...]) -> int:
    """How many parameters GATS trains: the others get as many."""
    words = [*experiment.sources(runs), *(change for change in changes if change != "quick")]
    args = compose.Args(experiment.file, runs / experiment.name / "size", tuple(words))
    return compose.trained_size(args)


def toml(value: Any) -> str:
    """A value as a TOML file has it."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def main(
    experiment: tyro.conf.Positional[Literal["language", "robot", "pong", "scenes", "table"]],
    arms: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2),
    sweep: bool = False,
    part: tuple[int, int] = (0, 1),
    runs: Path = Path("runs/gats"),
    results: Path = RESULTS,
    set: tuple[str, ...] = (),
) -> None:
    """Run an experiment, or print what was asked beside what was measured.

    Args:
        experiment: which one, or "table".
        arms: all by default.
        seeds: of weights and data order.
        sweep: windows and numbers of layers instead of the arms.
        part: (i, n): every n-th run from the i-th on, for several processes.
        runs: folder of runs.
        results: folder of the finished ones' lines.
        set: FIELD=VALUE in place of the file's, for trials; "quick" also shortens what comes before.
    """
    if experiment == "table":
        print_table(results)
        return
    chosen = EXPERIMENTS[experiment]
    known = chosen.sweep if sweep else chosen.arms
    for arm in arms:
        if arm not in known:
            raise unknown("arm", arm, known)
    wanted_arms = {arm: known[arm] for arm in arms or known}
    run(chosen, runs, wanted_arms, (0,) if sweep else seeds, part, set, results)


if __name__ == "__main__":
    tyro.cli(main)

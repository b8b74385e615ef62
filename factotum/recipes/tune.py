"""`factotum tune`: the parameters of any command or Python function, many workers on one study."""

from __future__ import annotations

import os
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from factotum.core.checks import UserError
from factotum.core.files import read_json
from factotum.recipes.tune_objective import callable_objective, command_objective
from factotum.recipes.tune_report import number, write_tune_report
from factotum.samplers.replay import DEFAULT_WEIGHTS
from factotum.samplers.study import finished, import_optuna, make_space, open_study, optimize
from factotum.training.progress import Progress


@dataclass(frozen=True)
class Args:
    """Tune a command or a Python function; run again, it adds the trials that are missing.

    SPACE_FILE describes the parameters, in JSON or TOML: `lr = {type = "float", low = 1e-5, high = 0.1, log = true}`,
    `layers = {type = "int", low = 1, high = 4}`, `kind = {type = "categorical", choices = ["a", "b"]}`.
    The same command on several machines with one --storage shares the study among them.
    """

    space: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="SPACE_FILE")]]
    """search space, .json or .toml"""
    command: str | None = None
    """command with every parameter in braces, such as "python train.py --lr {lr}"; {trial} is the trial's number"""
    callable: str | None = None
    """MODULE:FUNCTION instead, called with the parameters by name"""
    trials: int = 100
    """trials of the study in all, failed ones included"""
    direction: Literal["minimize", "maximize"] = "minimize"
    """what is better"""
    storage: str = "sqlite:///tune.db"
    """sqlite:///PATH, journal:PATH (a file that several machines see), postgresql://... or mysql://..."""
    study: str | None = None
    """name of the study; the search-space file's by default"""
    jobs: int = 1
    """trials at a time in this process"""
    pattern: str | None = None
    """regular expression that finds the value in the command's output; by default the last number printed"""
    key: str | None = None
    """entry of the last JSON line of the command's output that is the value"""
    timeout: float | None = None
    """seconds after which a command is a failed trial"""
    seed: int = 0
    """seed of the sampler"""
    weights: str = DEFAULT_WEIGHTS
    """shipped weights by name, or a folder"""
    report: Path | None = None
    """file of the report; STUDY.html by default"""


def main(args: Args) -> Path:
    """Run the missing trials, print the best one, write the report."""
    import_optuna()
    from factotum.samplers import RNNSampler

    for name in ("trials", "jobs"):
        if getattr(args, name) < 1:
            raise UserError(f"{name}: expected at least 1, got {getattr(args, name)}")
    description = read_space(args.space)
    space = make_space(description)
    objective = make_objective(args, space)
    # A command goes through the values of a parameter in the order of the file; the sampler sorts them itself.
    sampler = RNNSampler(args.weights, n_trials=args.trials, seed=args.seed, search_space=space)
    name = args.study or args.space.stem
    study = open_study(args.storage, name, direction=args.direction, space=description, sampler=sampler)
    _run(args, study, objective)
    return _finish(args, study)


def read_space(path: Path) -> dict[str, Any]:
    """The description in a file.

    Raises:
        UserError: it is missing, does not parse, or is no table of parameters.
    """
    if path.suffix == ".toml":
        try:
            return tomllib.loads(path.read_text())
        except FileNotFoundError as error:
            raise UserError(f"expected a file {path}, found none") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"expected TOML in {path}, got something that does not parse: {error}") from error
    if path.suffix != ".json":
        raise UserError(f"space file: expected .json or .toml, got {path}")
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object of parameters, got {type(found).__name__}")
    return found


def make_objective(args: Args, space: dict[str, Any]) -> Any:
    """What the options ask to be tuned.

    Raises:
        UserError: neither a command nor a callable, or both.
    """
    if (args.command is None) == (args.callable is None):
        raise UserError("expected --command or --callable, got " + ("both" if args.command else "neither"))
    if args.command is not None:
        return command_objective(
            args.command, space, pattern=args.pattern, key=args.key, timeout=args.timeout
        )
    for name in ("pattern", "key", "timeout"):
        if getattr(args, name) is not None:
            raise UserError(f"{name}: only a --command has one")
    assert args.callable is not None
    return callable_objective(args.callable, space)


def _run(args: Args, study: Any, objective: Any) -> None:
    done = finished(study)
    if done >= args.trials:
        print(f"{study.study_name}: {done} trials are there already; --trials asks for {args.trials}")
        return
    failed = 0
    with Progress(args.trials, f"tune {study.study_name}", "trials", done=done) as bar:

        def after(study: Any, trial: Any) -> None:
            nonlocal failed
            failed += trial.state.name == "FAIL"
            note = f"best {_best_value(study)}" + (f", {failed} failed" if failed else "")
            # workers elsewhere make trials too
            bar.advance(finished(study) - bar.done, amount=1, note=note)

        optimize(study, objective, args.trials, jobs=args.jobs, after_trial=after)


def _best_value(study: Any) -> str:
    try:
        return number(study.best_value)
    except ValueError:
        return "none yet"


def _finish(args: Args, study: Any) -> Path:
    os.environ.setdefault("MPLBACKEND", "Agg")
    best = study.best_trial
    print(f"best of {finished(study)} trials: {number(best.value)} (trial {best.number})")
    for name, value in best.params.items():
        print(f"  {name} = {value}")
    line = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    path = write_tune_report(study, args.report or Path(f"{study.study_name}.html"), line)
    print(f"report: {path}")
    return path

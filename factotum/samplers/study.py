"""A study of a described search space: opened on any storage, run by any number of workers, drawn.

What it does not know: what is evaluated. Optuna is imported inside functions; studies and trials are Optuna's.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from factotum.core.checks import UserError, missing_extra, unknown

Study = Any
"""Optuna's, which is not imported here."""

KEYS = {
    "float": ("low", "high", "log", "step"),
    "int": ("low", "high", "log", "step"),
    "categorical": ("choices",),
}
"""What describes a parameter of each type."""

PLAIN = (str, int, float, bool, type(None))

HOPELESS = 5
"""Trials that fail one after the other, from the first of a run on, before the run is given up."""


def import_optuna() -> Any:
    """Optuna.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise missing_extra("optuna", "optuna") from error
    return optuna


def make_space(description: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna's distributions from plain values.

    Args:
        description: by parameter, `type` ("float", "int" or "categorical") with `low`, `high` and perhaps `log` or
            `step`, or with `choices`.

    Raises:
        UserError: nothing described, a wrong or missing key, bounds that make no sense; the parameter is named.

    >>> make_space({"lr": {"type": "float", "low": 1e-5, "high": 0.1, "log": True}})
    {'lr': FloatDistribution(high=0.1, log=True, low=1e-05, step=None)}
    """
    if not isinstance(description, Mapping) or not description:
        raise UserError(
            f"search space: expected a description by parameter, at least one, got {description!r}"
        )
    return {name: _distribution(name, one) for name, one in description.items()}


def _distribution(name: str, one: Any) -> Any:
    distributions = import_optuna().distributions
    if not isinstance(one, Mapping):
        raise UserError(f"{name}: expected type, low and high, or type and choices, got {one!r}")
    kind = one.get("type")
    if not isinstance(kind, str) or kind not in KEYS:
        raise UserError(f"{name}: expected a type of {', '.join(KEYS)}, got {kind!r}")
    given = {key: value for key, value in one.items() if key != "type"}
    for key in given:
        if key not in KEYS[kind]:
            raise unknown(f"key of the {kind} {name}", key, KEYS[kind])
    needed = ("choices",) if kind == "categorical" else ("low", "high")
    if missing := [key for key in needed if key not in given]:
        raise UserError(f"{name}: type {kind} needs {' and '.join(missing)}")
    choices = given.get("choices", [None])
    if not isinstance(choices, list) or not choices or not all(isinstance(one, PLAIN) for one in choices):
        raise UserError(
            f"{name}: expected a list of texts, numbers, true, false or null as choices, got {choices!r}"
        )
    _check_numbers(name, kind, given)
    try:
        classes = (distributions.FloatDistribution, distributions.IntDistribution)
        return dict(zip(KEYS, (*classes, distributions.CategoricalDistribution), strict=True))[kind](**given)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name}: {str(error).rstrip('.')}") from error


def _check_numbers(name: str, kind: str, given: Mapping[str, Any]) -> None:
    kinds, wanted = (int, "a whole number") if kind == "int" else (int | float, "a finite number")
    for key in ("low", "high", "step"):
        value = given.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            raise UserError(f"{name}: expected {wanted} as {key}, got {value!r}")
    if not isinstance(given.get("log", False), bool):
        raise UserError(f"{name}: expected true or false as log, got {given['log']!r}")


def suggest(trial: Any, space: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's value for each parameter of a space that `make_space` made."""
    values = {}
    for name, one in space.items():
        if hasattr(one, "choices"):
            values[name] = trial.suggest_categorical(name, one.choices)
        else:
            ask = trial.suggest_int if isinstance(one.low, int) else trial.suggest_float
            values[name] = ask(name, one.low, one.high, step=one.step, log=one.log)
    return values


def open_study(storage: str, name: str, *, direction: str, space: Mapping[str, Any], sampler: Any) -> Study:
    """A study on a storage, made if it is not there.

    Args:
        storage: `journal:PATH`, or a database's URL: `sqlite:///PATH`, `postgresql://...`, `mysql://...`.
        name: of the study.
        direction: "minimize" or "maximize".
        space: as given to `make_space`; kept with the study.
        sampler: proposes trials.

    Raises:
        UserError: the storage cannot be opened, or holds a study of that name with another direction or space.
    """
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # failures are told in the progress and the report
    try:
        study = optuna.create_study(
            storage=_storage(storage),
            study_name=name,
            direction=direction,
            sampler=sampler,
            load_if_exists=True,
        )
    except UserError:
        raise
    except Exception as error:  # each database driver has its own
        raise UserError(f"storage: cannot open {storage}: {str(error).splitlines()[0]}") from error
    _same("direction", study.direction.name.lower(), direction, study)
    stored = study.user_attrs.get("space")
    if stored is None:
        study.set_user_attr("space", dict(space))
    else:
        _same("search space", stored, dict(space), study)
    return study


def _same(what: str, stored: Any, given: Any, study: Study) -> None:
    if stored != given:
        raise UserError(
            f"study {study.study_name!r} exists with {what} {stored}, got {given}: expected the same, or another "
            "name for a new study"
        )


def _storage(url: str) -> Any:
    storages = import_optuna().storages
    scheme, colon, rest = url.partition(":")
    if scheme == "journal" and rest:
        return storages.JournalStorage(storages.journal.JournalFileBackend(rest))
    if not colon or "//" not in rest:
        raise UserError(
            f"storage: expected sqlite:///PATH, journal:PATH or another database's URL, got {url!r}"
        )
    # A worker that dies stops its heartbeat; its trial is then marked as failed by the others.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return storages.RDBStorage(url, heartbeat_interval=30, grace_period=120)


def finished(study: Study) -> int:
    """Trials that ended, in whatever way."""
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def optimize(
    study: Study,
    objective: Callable[[Any], float],
    trials: int,
    *,
    jobs: int = 1,
    after_trial: Callable[[Study, Any], None] = lambda study, trial: None,
) -> None:
    """Run trials until so many ended in the study, counting those of other workers and of earlier runs.

    Workers that share a study each finish the trial they are at, so it can end with a few more.

    Args:
        study: of `open_study`.
        objective: the value of a trial; whatever it raises makes a failed trial, with the error in `user_attrs`.
        trials: how many.
        jobs: threads.
        after_trial: called after each trial of this process.

    Raises:
        UserError: the first five trials of this run failed, or none of the study succeeded.
    """
    run = _Run(study, objective, trials, after_trial)
    missing = trials - finished(study)
    if missing > 0:
        study.optimize(run.objective, missing, n_jobs=jobs, catch=(Exception,), callbacks=[run.after])
    if run.hopeless or (run.states and not any(one.state.name == "COMPLETE" for one in study.trials)):
        last = run.errors[-1] if run.errors else "its value was not a number"
        count = "the only trial" if len(run.states) == 1 else f"all {len(run.states)} trials"
        raise UserError(f"{count} failed, so the search was given up; the last: {last}")


class _Run:
    """What happened to the trials of this process."""

    def __init__(self, study: Study, objective: Callable[[Any], float], trials: int, after_trial: Any):
        self._objective, self._trials, self._after_trial = objective, trials, after_trial
        self.states: list[str] = []
        self.errors: list[str] = []
        self.pruned = import_optuna().TrialPruned

    @property
    def hopeless(self) -> bool:
        return self.states[:HOPELESS] == ["FAIL"] * HOPELESS

    def objective(self, trial: Any) -> float:
        try:
            return self._objective(trial)
        except self.pruned:
            raise
        except Exception as error:
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self.errors.append(text)
            trial.set_user_attr("error", text)
            raise

    def after(self, study: Study, trial: Any) -> None:
        self.states.append(trial.state.name)
        self._after_trial(study, trial)
        if self.hopeless or finished(study) >= self._trials:
            study.stop()


def pictures(study: Study) -> list[tuple[str, bytes]]:
    """Optuna's usual plots with their titles, PNG; those that cannot be drawn yet are left out."""
    optuna = import_optuna()
    plots = optuna.visualization.matplotlib
    complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    varied = [name for name in _names(complete) if len({str(t.params.get(name)) for t in complete}) > 1]
    drawn = [("Optimization history", plots.plot_optimization_history, 1, 0)]
    drawn.append(("Parameter importances", plots.plot_param_importances, 4, 2))
    drawn.append(("Slices", plots.plot_slice, 1, 1))
    drawn.append(("Parallel coordinates", plots.plot_parallel_coordinate, 2, 2))
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for title, plot, trials, parameters in drawn:
            if len(complete) >= trials and len(varied) >= parameters:
                found.append((title, _png(plot(study), 3 + 1.5 * len(varied))))
    return found


def _names(trials: Sequence[Any]) -> list[str]:
    return sorted({name for trial in trials for name in trial.params})


def _png(axes: Any, width: float) -> bytes:
    axes = axes.flat[0] if hasattr(axes, "flat") else axes
    stream = io.BytesIO()
    axes.figure.set_size_inches(max(width, 7.0), 4.8)
    axes.figure.savefig(stream, format="png", dpi=110, bbox_inches="tight")
    axes.figure.clear()
    return stream.getvalue()

"""Which hyper-parameters suit four classical models on three data sets? Live, cross-validated, spaces of every kind.

    python examples/samplers/tune_sklearn.py  # everything: a quarter of an hour or more
    python examples/samplers/tune_sklearn.py --models svm --datasets wine cancer  # a minute or two

Spaces mix real, logarithmic, whole and categorical parameters, some of which exist only for some values of others. They
are not declared: the first trial of a study is random, and the sampler learns the space from the trials.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import optuna
import tyro
from comparison import best_so_far, draw_medians, make_samplers, save_figure
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from factotum.samplers.replay import DEFAULT_WEIGHTS

ModelName = Literal["svm", "forest", "logistic", "mlp"]
DataName = Literal["digits", "cancer", "wine"]


@dataclass(frozen=True)
class Args:
    """Tune models by random search, TPE and the learned sampler."""

    models: tuple[ModelName, ...] = ("svm", "forest", "logistic", "mlp")
    """which models"""
    datasets: tuple[DataName, ...] = ("digits", "cancer", "wine")
    """on which data"""
    trials: int = 40
    """of each study"""
    seeds: int = 5
    """studies of each sampler"""
    rows: int = 400
    """rows of a data set at most, so that a trial takes a fraction of a second"""
    weights: str = DEFAULT_WEIGHTS
    """shipped weights by name, or a folder"""
    output: Path = Path("runs/examples/tune_sklearn.png")
    """file of the plot"""
    quick: bool = False
    """a few seconds: svm and logistic on wine, 8 trials, 1 seed"""


Results = dict[tuple[str, str], dict[str, np.ndarray]]
"""By model and data set, then by sampler: best error so far, one row a seed."""


def main(args: Args) -> Results:
    """Tune everything, print the errors and mean ranks, draw them."""
    if args.quick:
        args = replace(args, models=("svm", "logistic"), datasets=("wine",), trials=8, seeds=1)
    samplers = make_samplers(args.weights, args.trials)
    results: Results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some trials do not converge: their error says so
        for data in args.datasets:
            x, y = load(data, args.rows)
            for model in args.models:
                objective = make_objective(MODELS[model], x, y)
                results[model, data] = {
                    name: np.stack([tune(objective, make(seed), args.trials) for seed in range(args.seeds)])
                    for name, make in samplers.items()
                }
                print_row(model, data, results[model, data])
    print_ranks(results)
    save_figure(lambda figure: draw(figure, args, results), picture_size(args), args.output)
    return results


def load(name: DataName, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and classes, shuffled and cut."""
    loaders = {"digits": load_digits, "cancer": load_breast_cancer, "wine": load_wine}
    x, y = loaders[name](return_X_y=True)
    kept = np.random.default_rng(0).permutation(len(x))[:rows]
    return x[kept], y[kept]


# -- search spaces


def svm(trial: optuna.Trial) -> Any:
    """A support vector machine; the kernel decides which parameters there are."""
    params: dict[str, Any] = {"C": trial.suggest_float("C", 1e-3, 1e3, log=True)}
    params["kernel"] = trial.suggest_categorical("kernel", ["linear", "poly", "rbf", "sigmoid"])
    if params["kernel"] != "linear":
        params["gamma"] = trial.suggest_float("gamma", 1e-6, 10.0, log=True)
    if params["kernel"] == "poly":
        params["degree"] = trial.suggest_int("degree", 2, 5)
    return SVC(**params, max_iter=20_000)


def forest(trial: optuna.Trial) -> Any:
    """A random forest."""
    return RandomForestClassifier(
        n_estimators=trial.suggest_int("n_estimators", 5, 100, log=True),
        max_depth=trial.suggest_int("max_depth", 2, 20),
        max_features=trial.suggest_float("max_features", 0.05, 1.0),
        min_samples_leaf=trial.suggest_int("min_samples_leaf", 1, 20, log=True),
        criterion=trial.suggest_categorical("criterion", ["gini", "entropy"]),
        bootstrap=trial.suggest_categorical("bootstrap", [True, False]),
        random_state=0,
    )


def logistic(trial: optuna.Trial) -> Any:
    """Logistic regression by stochastic gradient descent; one schedule has no rate to tune."""
    schedule = trial.suggest_categorical("learning_rate", ["optimal", "constant", "invscaling", "adaptive"])
    rate = 0.01 if schedule == "optimal" else trial.suggest_float("eta0", 1e-5, 1.0, log=True)
    return SGDClassifier(
        loss="log_loss",
        penalty="elasticnet",
        alpha=trial.suggest_float("alpha", 1e-7, 1.0, log=True),
        l1_ratio=trial.suggest_float("l1_ratio", 0.0, 1.0),
        max_iter=trial.suggest_int("max_iter", 2, 50, log=True),
        learning_rate=schedule,
        eta0=rate,
        random_state=0,
    )


def mlp(trial: optuna.Trial) -> Any:
    """A multi-layer perceptron."""
    width = trial.suggest_int("width", 4, 64, log=True)
    return MLPClassifier(
        hidden_layer_sizes=(width,) * trial.suggest_int("layers", 1, 3),
        activation=trial.suggest_categorical("activation", ["relu", "tanh", "logistic"]),
        learning_rate_init=trial.suggest_float("learning_rate_init", 1e-4, 1e-1, log=True),
        alpha=trial.suggest_float("alpha", 1e-6, 10.0, log=True),
        batch_size=trial.suggest_int("batch_size", 16, 128, step=16),
        max_iter=20,
        random_state=0,
    )


MODELS: dict[ModelName, Callable[[optuna.Trial], Any]] = {
    "svm": svm,
    "forest": forest,
    "logistic": logistic,
    "mlp": mlp,
}


def make_objective(
    model: Callable[[optuna.Trial], Any], x: np.ndarray, y: np.ndarray
) -> Callable[[optuna.Trial], float]:
    """Mean error over three folds, which are the same for every trial."""
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    return lambda trial: (
        1 - float(cross_val_score(make_pipeline(StandardScaler(), model(trial)), x, y, cv=folds).mean())
    )


def tune(
    objective: Callable[[optuna.Trial], float], sampler: optuna.samplers.BaseSampler, trials: int
) -> np.ndarray:
    """Best error after each trial."""
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=trials)
    return best_so_far(study)


# -- results


def print_row(model: str, data: str, curves: dict[str, np.ndarray]) -> None:
    """Median error at half and at the full budget."""
    trials = next(iter(curves.values())).shape[1]
    half, full = trials // 2, trials
    cells = [
        f"{name} {100 * np.median(rows[:, half - 1]):.2f} {100 * np.median(rows[:, full - 1]):.2f}"
        for name, rows in curves.items()
    ]
    print(f"{model:>8} on {data:<6} median error in % after {half} and {full} trials:  " + "   ".join(cells))


def print_ranks(results: Results) -> None:
    """Mean over tasks and seeds of the place among the samplers, ties averaged."""
    names = list(next(iter(results.values())))
    for place, when in ((0.5, "half"), (1.0, "all")):
        ranks = []
        for curves in results.values():
            column = max(1, round(place * curves[names[0]].shape[1])) - 1
            errors_NS = np.stack([curves[name][:, column] for name in names])
            below = (errors_NS[None] < errors_NS[:, None]).sum(1)
            equal = (errors_NS[None] == errors_NS[:, None]).sum(1)
            ranks.append((below + (equal + 1) / 2).mean(1))
        cells = [f"{name} {rank:.2f}" for name, rank in zip(names, np.mean(ranks, 0), strict=True)]
        print(f"mean rank after {when} of the trials: " + ", ".join(cells))


def picture_size(args: Args) -> tuple[float, float]:
    """A panel a task."""
    return 2.2 + 2.6 * len(args.models), 0.6 + 2.2 * len(args.datasets)


def draw(figure: Figure, args: Args, results: Results) -> None:
    """Median error over seeds by trial, a column a model, a row a data set."""
    panels = cast(Any, figure.subplots(len(args.datasets), len(args.models), squeeze=False, sharex=True))
    for row, data in enumerate(args.datasets):
        for column, model in enumerate(args.models):
            axes = panels[row, column]
            curves = {name: 100 * rows for name, rows in results[model, data].items()}
            draw_medians(axes, curves, label="error, %" if column == 0 else "", every="trial")
            if row < len(args.datasets) - 1:
                axes.set_xlabel("")
            axes.set_title(f"{model} on {data}")
            medians = [np.median(rows, 0) for rows in curves.values()]
            worst, best = max(m[min(4, len(m) - 1)] for m in medians), min(m[-1] for m in medians)
            axes.set_ylim(best - 0.08 * (worst - best) - 0.05, worst + 0.1 * (worst - best) + 0.05)
    panels[0, -1].legend(loc="upper right", fontsize=8)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))

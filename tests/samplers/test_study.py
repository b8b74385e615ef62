"""Spaces from plain values, every mistake named; studies on storages; pictures when there is something to draw."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from factotum.core.checks import UserError
from factotum.samplers.study import finished, make_space, open_study, optimize, pictures, suggest

SPACE = {
    "a": {"type": "float", "low": 0, "high": 1, "step": 0.25},
    "b": {"type": "int", "low": 1, "high": 64, "log": True},
    "c": {"type": "categorical", "choices": ["x", 2, 0.5, True, None]},
}


def test_space_and_its_values():
    space = make_space(SPACE)
    assert space == {
        "a": FloatDistribution(0, 1, step=0.25),
        "b": IntDistribution(1, 64, log=True),
        "c": CategoricalDistribution(["x", 2, 0.5, True, None]),
    }
    trial = optuna.create_study().ask()
    assert suggest(trial, space) == trial.params
    assert trial.distributions == space


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (3, "p: expected type, low and high, or type and choices, got 3"),
        ({"low": 0}, "p: expected a type of float, int, categorical, got None"),
        ({"type": ["float"]}, "p: expected a type of float"),
        ({"type": "float", "low": 0}, "p: type float needs high"),
        ({"type": "int"}, "p: type int needs low and high"),
        ({"type": "categorical"}, "p: type categorical needs choices"),
        ({"type": "categorical", "choices": []}, "p: expected a list of"),
        ({"type": "categorical", "choices": [[1]]}, "p: expected a list of"),
        ({"type": "categorical", "choices": "ab"}, "p: expected a list of"),
        (
            {"type": "float", "low": 0, "high": 1, "logg": True},
            "unknown key of the float p 'logg': did you mean log",
        ),
        ({"type": "float", "low": "0", "high": 1}, "p: expected a finite number as low, got '0'"),
        ({"type": "int", "low": 0.5, "high": 1}, "p: expected a whole number as low, got 0.5"),
        ({"type": "float", "low": 0, "high": 1, "log": "yes"}, "p: expected true or false as log, got 'yes'"),
        ({"type": "float", "low": 2, "high": 1}, "p: .*low <= high"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "p: .*low > 0"),
        ({"type": "float", "low": 0, "high": float("inf")}, "p: expected a finite number as high, got inf"),
        ({"type": "int", "low": 1, "high": 8, "step": 0}, "p: .*step"),
        ({"type": "int", "low": 1, "high": 8, "step": 2, "log": True}, "p: .*step"),
    ],
)
def test_mistakes_are_named(one, message):
    with pytest.raises(UserError, match=message):
        make_space({"p": one})


@pytest.mark.parametrize("nothing", [{}, [], None])
def test_empty_space(nothing):
    with pytest.raises(
        UserError, match="search space: expected a description by parameter, at least one, got"
    ):
        make_space(nothing)


def opened(tmp_path, **options):
    given = {
        "direction": "minimize",
        "space": SPACE,
        "sampler": optuna.samplers.RandomSampler(seed=0),
        **options,
    }
    return open_study(f"journal:{tmp_path / 'j.log'}", "s", **given)


def test_trials_are_counted_whoever_made_them(tmp_path):
    study, space = opened(tmp_path), make_space(SPACE)
    optimize(study, lambda trial: suggest(trial, space)["a"], 4)
    again, seen = opened(tmp_path), []

    def after(study, trial):
        seen.append(trial.number)

    again.ask()
    optimize(
        again,
        lambda trial: suggest(trial, space)["a"],
        6,
        after_trial=lambda study, trial: seen.append(trial.number),
    )
    assert seen == [5, 6]
    assert finished(again) == 6
    optimize(again, lambda trial: 1 / 0, 6)
    assert finished(again) == 6


def test_failures_count_but_five_at_first_are_enough(tmp_path):
    study = opened(tmp_path)

    def objective(trial):
        if trial.number % 2:
            raise OSError("disk")
        return 1.0

    optimize(study, objective, 7)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"] * 3 + ["COMPLETE"]
    assert study.trials[1].user_attrs["error"] == "OSError: disk"
    with pytest.raises(
        UserError, match=r"all 5 trials failed, .* the last: ZeroDivisionError: division by zero"
    ):
        optimize(study, lambda trial: 1 / 0, 30)
    assert len(study.trials) == 12


def test_pruned_trials_are_no_failures(tmp_path):
    study = opened(tmp_path)

    def objective(trial):
        if trial.number:
            raise optuna.TrialPruned
        return 1.0

    optimize(study, objective, 8)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] + ["PRUNED"] * 7


def test_pictures_come_with_the_trials_they_need(tmp_path):
    study, space = opened(tmp_path), make_space(SPACE)
    titles = []
    for trials in (1, 2, 5):
        optimize(study, lambda trial: float(len(str(suggest(trial, space)))), trials)
        drawn = pictures(study)
        assert all(png.startswith(b"\x89PNG") and len(png) > 5000 for _, png in drawn)
        titles.append([title for title, _ in drawn])
    assert titles[0] == ["Optimization history"]
    assert titles[2] == ["Optimization history", "Parameter importances", "Slices", "Parallel coordinates"]

"""The sampler in Optuna: what it feeds, that it keeps nothing, that it never harms a study."""

import copy
import math
import pickle
import sys
import warnings

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from factotum.core.checks import UserError
from factotum.samplers.sampler import RNNSampler
from tests.samplers.recording import RecordingCore
from tests.samplers.studies import LINE, MIXED, next_params, rnn, run, value
from tests.samplers.untrained import untrained_core

optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_fills_a_mixed_space_from_the_first_trial_on():
    study = optuna.create_study(sampler=rnn(search_space=MIXED))
    points = run(study, MIXED, value, 15)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
    assert points[0] == next_params(optuna.create_study(), rnn(), dict(sorted(MIXED.items())))
    assert len({tuple(point.items()) for point in points}) == 15


def test_a_fresh_sampler_on_stored_trials_proposes_the_same(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=url, study_name="a", sampler=rnn())
    run(study, MIXED, value, 9)
    study.tell(study.ask(MIXED), state=TrialState.FAIL)
    running = [study.ask(MIXED) for _ in range(3)]
    study.tell(running[1], value(running[1].params))
    loaded = optuna.load_study(storage=url, study_name="a")
    space = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert space == MIXED
    expected = next_params(study, study.sampler, space)
    assert next_params(loaded, rnn(), space) == expected
    assert next_params(loaded, rnn(seed=1), space) != expected
    assert next_params(loaded, pickle.loads(pickle.dumps(study.sampler)), space) == expected
    assert next_params(loaded, copy.deepcopy(study.sampler), space) == expected


def test_running_trials_are_seen():
    study = optuna.create_study(sampler=rnn(search_space=LINE))
    run(study, LINE, lambda params: params["x"], 4)
    before = next_params(study, rnn(), LINE)
    assert study.ask(LINE).params == before
    assert next_params(study, rnn(), LINE) != before


def test_trials_are_fed_in_the_order_in_which_they_ended():
    core = RecordingCore()
    study = optuna.create_study(sampler=rnn(core, n_trials=20, search_space=LINE))
    trials = [study.ask(LINE) for _ in range(4)]
    for index in (2, 0, 3):
        study.tell(trials[index], float(index))
    del core.seen[:]
    next_params(study, rnn(core, n_trials=20), LINE)
    assert core.told == [2.0, 0.0, 3.0]
    pending = core.seen[-1]
    assert (pending.y, pending.remaining) == (None, 16.0)
    assert pending.x == pytest.approx([trials[1].params["x"]], abs=1e-5)


def test_maximising_mirrors_minimising():
    down = optuna.create_study(sampler=rnn())
    up = optuna.create_study(sampler=rnn(), direction="maximize")
    assert run(down, MIXED, value, 20) == run(up, MIXED, lambda params: -value(params), 20)


@pytest.mark.parametrize(
    ("a", "b"), [(2.0**-20, 0.0), (2.0**30, 0.0), (1e-3, 0.0), (1e3, 7.0), (1.0, 1e6), (1e12, -1e12)]
)
def test_scale_and_offset_change_nothing(a, b):
    plain = optuna.create_study(sampler=rnn(search_space=MIXED))
    other = optuna.create_study(sampler=rnn(search_space=MIXED))
    points = run(plain, MIXED, value, 20)
    scaled = run(other, MIXED, lambda params: a * value(params) + b, 20)
    for one, two in zip(points, scaled, strict=True):
        if b == 0 and math.frexp(a)[0] == 0.5:
            assert one == two
        assert one == {
            name: pytest.approx(v, rel=1e-4) if isinstance(v, float) else v for name, v in two.items()
        }


def test_failed_pruned_infeasible_and_infinite_trials_are_fed_and_lose_nothing():
    core = RecordingCore()
    study = optuna.create_study(sampler=rnn(core, search_space=LINE))
    for told in (5.0, 2.0, 9.0):
        study.tell(study.ask(LINE), told)
    study.tell(study.ask(LINE), state=TrialState.FAIL)
    study.tell(study.ask(LINE), math.nan)
    study.tell(study.ask(LINE), math.inf)
    study.tell(study.ask(LINE), -math.inf)
    pruned = study.ask(LINE)
    pruned.report(7.0, 1)
    study.tell(pruned, state=TrialState.PRUNED)
    promising = study.ask(LINE)
    promising.report(0.0, 1)
    study.tell(promising, state=TrialState.PRUNED)
    study.tell(study.ask(LINE), state=TrialState.PRUNED)
    forbidden = study.ask(LINE)
    forbidden.set_constraint("memory", 1.0)
    study.tell(forbidden, -10.0)
    allowed = study.ask(LINE)
    allowed.set_constraint("memory", -1.0)
    study.tell(allowed, 1.0)
    study.ask(LINE)
    # failed, NaN, inf, -inf; pruned at 7, at 0 (the median of 5, 2, 9, 7 is 6), at nothing; infeasible; feasible
    assert core.told == [5.0, 2.0, 9.0, 9.0, 9.0, 9.0, 2.0, 7.0, 6.0, 9.0, 9.0, 1.0]


def test_objective_that_fails_at_first_then_prunes():
    study = optuna.create_study(sampler=rnn(), pruner=optuna.pruners.MedianPruner(n_startup_trials=2))

    def objective(trial):
        x = trial.suggest_float("x", -1, 1)
        if trial.number in (0, 1, 7):
            raise RuntimeError("out of memory")
        for step in range(4):
            trial.report(x**2 + 1 / (step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return math.nan if trial.number == 9 else x**2

    study.optimize(objective, n_trials=25, catch=RuntimeError)
    states = [trial.state for trial in study.trials]
    assert len(states) == 25
    assert states.count(TrialState.FAIL) == 4
    assert states.count(TrialState.PRUNED) > 0


def test_conditional_parameters_join_the_space_when_first_seen():
    core = RecordingCore()
    fallback = CountingSampler()
    study = optuna.create_study(sampler=rnn(core, fallback=fallback))

    def objective(trial):
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            return trial.suggest_float("x", 0, 1)
        return trial.suggest_float("y", 0, 1) + trial.suggest_int("n", 1, 3)

    study.enqueue_trial({"kind": "a", "x": 0.5})
    study.enqueue_trial({"kind": "b", "y": 0.5, "n": 2})
    study.optimize(objective, n_trials=20)
    space = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert list(space) == ["kind", "n", "x", "y"]
    assert len(core.seen[-1].x) == 4
    kinds = [trial.params["kind"] for trial in study.trials[2:]]
    assert {"a", "b"} == set(kinds)
    assert fallback.names == set(), "all were proposed jointly"


def test_newest_range_is_searched():
    study = optuna.create_study(sampler=rnn())
    run(study, {"x": FloatDistribution(0, 1)}, lambda params: params["x"], 5)
    run(study, {"x": FloatDistribution(10, 11)}, lambda params: params["x"], 5)
    space = study.sampler.infer_relative_search_space(study, study.trials[-1])
    assert space == {"x": FloatDistribution(10, 11)}
    assert 10 <= next_params(study, study.sampler, space)["x"] <= 11


class CountingSampler(optuna.samplers.RandomSampler):
    def __init__(self):
        super().__init__(seed=0)
        self.relative, self.names = 0, set()

    def infer_relative_search_space(self, study, trial):
        return optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False))

    def sample_relative(self, study, trial, search_space):
        self.relative += 1
        return {name: self.sample_independent(study, trial, name, one) for name, one in search_space.items()}

    def sample_independent(self, study, trial, param_name, param_distribution):
        self.names.add(param_name)
        return super().sample_independent(study, trial, param_name, param_distribution)


def test_too_many_coordinates_go_to_the_fallback_told_once():
    space = {f"x{i}": FloatDistribution(0, 1) for i in range(13)}
    fallback = CountingSampler()
    study = optuna.create_study(sampler=rnn(fallback=fallback))
    with pytest.warns(UserWarning, match="RNNSampler") as caught:
        run(study, space, lambda params: params["x0"], 5)
    assert fallback.relative == 4
    assert [str(one.message) for one in caught] == [
        "RNNSampler: the weights were trained for 1 to 12 coordinates, the search space has 13: what is beyond is "
        "left to CountingSampler"
    ]


def test_the_common_part_of_a_large_conditional_space_stays_ours():
    fallback = CountingSampler()
    study = optuna.create_study(sampler=rnn(fallback=fallback))

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        return x + trial.suggest_float(f"y{trial.number % 13}", 0, 1)

    with pytest.warns(UserWarning, match="what is beyond is left to CountingSampler"):
        study.optimize(objective, n_trials=20)
    assert list(study.sampler.infer_relative_search_space(study, study.trials[-1])) == ["x"]
    assert fallback.relative == 0
    assert "y3" in fallback.names


def test_past_the_plan_it_goes_on_and_past_the_trained_budget_the_fallback_does_each_told_once():
    fallback = CountingSampler()
    sampler = rnn(untrained_core(budget=12), n_trials=8, fallback=fallback, search_space=LINE)
    study = optuna.create_study(sampler=sampler)
    with pytest.warns(UserWarning, match="RNNSampler") as caught:
        points = run(study, LINE, lambda params: (params["x"] - 0.3) ** 2, 20)
    assert fallback.relative == 8
    told = [str(one.message) for one in caught]
    assert len(told) == 2
    assert "n_trials=8 trials have ended" in told[0]
    assert "12 trials have ended, and the weights were trained for 12: CountingSampler proposes" in told[1]
    assert len({point["x"] for point in points}) == 20


def test_parameters_outside_of_the_given_space_are_told_once():
    study = optuna.create_study(sampler=rnn(search_space=LINE))
    with pytest.warns(UserWarning, match="RNNSampler") as caught:
        study.optimize(
            lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_float("z", 0, 1), n_trials=3
        )
    assert [str(one.message) for one in caught] == [
        "RNNSampler: search_space lacks 'z' (and maybe others): TPESampler samples it"
    ]


def test_discrete_space_is_searched_without_repeats():
    space = {"a": IntDistribution(0, 3), "b": CategoricalDistribution(["x", "y", "z"])}
    core = RecordingCore([[0.9, 0.1, 0.1, 0.1]])
    study = optuna.create_study(sampler=rnn(core, search_space=space))
    points = run(study, space, lambda params: params["a"], 14)
    assert len({tuple(point.items()) for point in points[:12]}) == 12
    assert points[12] == points[13] == {"a": 3, "b": "x"}, "no other is left"


def test_a_core_that_repeats_itself_is_nudged():
    study = optuna.create_study(sampler=rnn(RecordingCore([[1.0]]), search_space=LINE))
    points = [point["x"] for point in run(study, LINE, lambda params: 0.0, 6)]
    assert points[0] == 1.0
    assert len(set(points)) == 6
    assert min(points) > 0.9


def test_studies_of_one_sampler_do_not_mix():
    sampler = rnn(search_space=LINE)
    first, second = optuna.create_study(sampler=sampler), optuna.create_study(sampler=sampler)
    run(first, LINE, lambda params: params["x"], 5)
    assert run(second, LINE, lambda params: -params["x"], 5) == run(
        optuna.create_study(sampler=rnn(search_space=LINE)), LINE, lambda params: -params["x"], 5
    )


def test_hyperband_hides_trials_of_other_brackets():
    study = optuna.create_study(sampler=rnn(), pruner=optuna.pruners.HyperbandPruner(max_resource=9))

    def objective(trial):
        x = trial.suggest_float("x", -1, 1)
        for step in range(9):
            trial.report(x**2 + 1 / (step + 1), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x**2

    study.optimize(objective, n_trials=15)
    assert len(study.trials) == 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "axail"}, "unknown weights 'axail'"),
        ({"n_trials": 0}, "n_trials: expected a whole number of at least 1, got 0"),
        ({"n_trials": 2.5}, "n_trials: expected a whole number"),
        ({"search_space": {}}, "search_space: expected distributions by parameter, at least one, got {}"),
        ({"search_space": {"x": (0, 1)}}, "expected a float, int or categorical distribution for 'x'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        RNNSampler(**{"weights": untrained_core(), **options})


def test_several_objectives_are_refused_and_the_study_goes_on_with_another_sampler():
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=rnn())
    with pytest.raises(ValueError, match="multi-objective optimization, RNNSampler cannot be used"):
        study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=1)
    study.sampler = optuna.samplers.RandomSampler()
    study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), 1.0), n_trials=2)
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 2


def test_objective_without_parameters():
    study = optuna.create_study(sampler=rnn())
    study.optimize(lambda trial: 1.0, n_trials=3)
    assert study.best_value == 1.0


def test_no_warning_in_plain_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study = optuna.create_study(sampler=rnn())
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=5)


def test_without_optuna_the_rest_works_and_the_sampler_says_how_to_get_it(monkeypatch):
    import factotum.samplers as face

    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "factotum.samplers.sampler")
    assert callable(face.minimize)
    with pytest.raises(UserError, match=r"optuna is not installed: run  pip install 'factotum\[optuna\]'"):
        face.RNNSampler  # noqa: B018

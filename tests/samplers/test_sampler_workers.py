"""Several workers on one study: threads, processes, and those that die."""

import multiprocessing

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from factotum.samplers.sampler import LOST_AFTER, LOST_EMPTY_AFTER
from tests.samplers import worker
from tests.samplers.recording import RecordingCore
from tests.samplers.studies import LINE, next_params, rnn

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize("empty", [False, True])
def test_trials_of_workers_that_died_are_forgotten(empty):
    core = RecordingCore()
    study = optuna.create_study(sampler=rnn(core, search_space=LINE))
    lost = study.ask() if empty else study.ask(LINE)
    pending = []
    for _ in range(LOST_AFTER + 3):
        trial = study.ask(LINE)
        pending.append(core.seen[-1].y is None)
        study.tell(trial, 1.0)
    patience = LOST_EMPTY_AFTER if empty else LOST_AFTER
    assert pending == [True] * patience + [False] * (LOST_AFTER + 3 - patience)
    study.tell(lost, 0.5)
    study.ask(LINE)
    assert core.told.count(0.5) == (not empty), "it was slow, not lost"


def test_threads_lose_and_repeat_nothing():
    study = optuna.create_study(
        sampler=rnn(search_space={"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)})
    )
    study.optimize(
        lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_float("y", 0, 1), n_trials=30, n_jobs=4
    )
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 30
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 30


def test_five_processes_of_which_one_is_killed(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    optuna.create_study(storage=url, study_name="shared")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.samplers.worker"])
    workers = [context.Process(target=worker.work, args=(url, 7, 2 if i == 2 else None)) for i in range(5)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert [one.exitcode for one in workers] == [0, 0, -9, 0, 0]
    study = optuna.load_study(storage=url, study_name="shared")
    states = [trial.state for trial in study.trials]
    assert states.count(TrialState.COMPLETE) == 4 * 7 + 2
    assert states.count(TrialState.RUNNING) == 1
    assert len(states) == 31
    points = [tuple(trial.params.values()) for trial in study.trials if trial.params]
    assert len(set(points)) == len(points)
    space = optuna.search_space.intersection_search_space(study.trials)
    assert next_params(study, rnn(seed=3), space) == next_params(study, rnn(seed=3), space)

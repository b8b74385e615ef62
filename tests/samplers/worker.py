"""One of several processes on one study; the one that is told to dies in the middle of a trial."""

from __future__ import annotations

import os
import signal
import time

import optuna

from factotum.samplers.sampler import RNNSampler
from tests.samplers.untrained import untrained_core


def work(url: str, trials: int, dies_in: int | None) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="shared", storage=url, sampler=RNNSampler(untrained_core(), seed=3))

    def objective(trial):
        x, n = trial.suggest_float("x", -1, 1), trial.suggest_int("n", 0, 1000)
        if len(done) == dies_in:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        done.append(trial.number)
        return x**2 + n

    done: list[int] = []
    study.optimize(objective, n_trials=trials)

"""Search spaces and short studies of an untrained sampler."""

from __future__ import annotations

import math

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from factotum.samplers.sampler import RNNSampler
from tests.samplers.untrained import untrained_core

LINE = {"x": FloatDistribution(0, 1)}
MIXED = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "layers": IntDistribution(1, 6),
    "width": IntDistribution(8, 512, log=True),
    "drop": FloatDistribution(0, 0.5, step=0.1),
    "kind": CategoricalDistribution(["a", "b", "c"]),
    "flag": CategoricalDistribution([True, False]),
}


def rnn(core=None, seed=0, **options):
    return RNNSampler(untrained_core() if core is None else core, seed=seed, **options)


def value(params):
    return (
        abs(math.log(params["lr"]) + 6)
        + params["layers"]
        + params["drop"]
        + (params["kind"] == "b")
        + params["flag"]
    )


def run(study, space, function, trials):
    for _ in range(trials):
        trial = study.ask(dict(space))
        study.tell(trial, function(trial.params))
    return [trial.params for trial in study.trials]


def next_params(study, sampler, space):
    """What a sampler would propose for one more trial."""
    number = len(study.trials)
    trial = optuna.trial.FrozenTrial(
        number=number, state=TrialState.RUNNING, value=None, datetime_start=None, datetime_complete=None, params={},
        distributions={}, user_attrs={}, system_attrs={}, intermediate_values={}, trial_id=10**6,
    )  # fmt: skip
    return sampler.sample_relative(study, trial, space)

"""Optuna's own suite for samplers, as it ships; and again with the fallback at work."""

import optuna
import pytest
from optuna.testing import pytest_samplers as suite

from factotum.samplers.sampler import RNNSampler
from tests.samplers.untrained import untrained_core

optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestBasic(suite.BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        core = untrained_core()
        return lambda: RNNSampler(core, n_trials=20, seed=0)


class TestRelative(suite.RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        core = untrained_core()
        return lambda: RNNSampler(core, seed=0)


class TestSingleObjectiveOnly(suite.SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self):
        core = untrained_core()
        return lambda: RNNSampler(core, seed=0)


class TestBasicBeyondTraining(suite.BasicSamplerTestCase):
    """One coordinate, five trials: nearly everything goes to the fallback."""

    @pytest.fixture
    def sampler(self):
        core = untrained_core(dimensions=1, budget=5)
        return lambda: RNNSampler(core, n_trials=5, seed=0)


class TestRelativeBeyondTraining(suite.RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        core = untrained_core(dimensions=1)
        return lambda: RNNSampler(core, seed=0, fallback=optuna.samplers.TPESampler(n_startup_trials=1))


def test_every_class_for_one_objective_is_used():
    ours = {base for case in globals().values() if isinstance(case, type) for base in case.__bases__}
    theirs = {
        case for name, case in vars(suite).items() if name.endswith("SamplerTestCase") and name[0] != "_"
    }
    assert theirs - ours == {suite.MultiObjectiveSamplerTestCase}

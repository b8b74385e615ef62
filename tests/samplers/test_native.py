"""The compiled path is used where it can be, and NumPy's elsewhere; that both compute the same is in `test_single`."""

from __future__ import annotations

import copy
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from factotum.samplers import native, single
from factotum.samplers.history import Observation, first_observation
from factotum.samplers.replay import Replay, Told
from tests.samplers.untrained import untrained_core

compiled = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """As in a new process of a new user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FACTOTUM_NATIVE", raising=False)
    native._load.cache_clear()
    yield tmp_path
    native._load.cache_clear()


@pytest.fixture
def steps(monkeypatch):
    """Which path made each proposal."""
    made = []

    def count(path):
        real = path.step

        def step(*told):
            made.append(path)
            return real(*told)

        return step

    for path in (native, single):
        monkeypatch.setattr(path, "step", count(path))
    return made


def proposals(core, count=12, snap=None, seed=0):
    """Of a search for the middle of four dimensions."""
    replay = Replay(core, 4, 30, seed, snap)
    points = []
    for index in range(count):
        x, _ = replay.propose(range(index), lambda i: Told(points[i], sum((u - 0.4) ** 2 for u in points[i])))
        points.append(x)
    return torch.tensor(points)


@compiled
def test_it_is_used(steps):
    proposals(untrained_core(core="acquisition"))
    assert steps == [native] * 11


def test_without_a_compiler_numpy_proposes_the_same(fresh, monkeypatch, caplog, steps):
    expected = proposals(untrained_core(core="acquisition"))
    native._load.cache_clear()
    del steps[:]
    monkeypatch.setenv("PATH", str(fresh))
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.INFO, "factotum.samplers"):
        found = proposals(untrained_core(core="acquisition"))
    assert steps == [single] * 11
    assert "no C++ compiler" in native.why_not()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_it_can_be_switched_off(monkeypatch, steps):
    monkeypatch.setenv("FACTOTUM_NATIVE", "0")
    proposals(untrained_core(core="acquisition"), 3)
    assert "switched off" in native.why_not()
    assert steps == [single] * 2


def test_weights_that_the_code_cannot_read_go_to_numpy(steps):
    core = copy.deepcopy(untrained_core(core="acquisition"))
    with torch.no_grad():
        core.own.weight.set_(core.own.weight.T.contiguous().T)
    proposals(core, 3)
    assert steps == [single] * 2


@compiled
def test_a_snap_that_fails_is_raised():
    def fail(points):
        raise ZeroDivisionError("no such point")

    core = untrained_core(core="acquisition")
    state = core.initial_state(1, 2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, state = core.step(first_observation(1, 2, 9.0), state)
        told = Observation(torch.zeros(1, 2), torch.ones(1), torch.tensor([True]), torch.tensor([8.0]))
        with pytest.raises(ZeroDivisionError, match="no such point"):
            core.step(told, state._replace(snap=fail))


@compiled
def test_threads_do_not_disturb_each_other():
    core = untrained_core(core="acquisition")
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: proposals(core, seed=seed), range(8)))
    for seed, found in enumerate(together):
        assert torch.equal(found, proposals(core, seed=seed))

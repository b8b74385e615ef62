"""What is kept of a study is what its trials say, whatever was asked before."""

from __future__ import annotations

import random
from types import SimpleNamespace as Trial

from factotum.samplers.memory import Memory


def test_order_is_that_of_completion_whatever_came_before():
    draw = random.Random(0)
    trials = [Trial(number=i, datetime_complete=time) for i, time in enumerate(draw.sample(range(99), 30))]
    memory = Memory()
    for _ in range(200):
        ended = sorted(draw.sample(trials, draw.randrange(30)), key=lambda one: one.number)
        for _ in range(2):
            finished, keys = memory.in_order(ended)
            assert finished == sorted(ended, key=lambda one: one.datetime_complete)
            assert keys == [(one.number, one.datetime_complete) for one in finished]


def test_a_key_stays_the_same_object_as_trials_end():
    memory = Memory()
    trials = [Trial(number=i, datetime_complete=i) for i in range(9)]
    first = memory.in_order(trials[:5])[1]
    assert all(a is b for a, b in zip(first, memory.in_order(trials)[1], strict=False))


def test_spaces_share_what_is_alike(monkeypatch):
    from optuna.distributions import FloatDistribution

    memory, made = Memory(), []

    def make(dimensions, snap):
        made.append(dimensions)
        return dimensions

    for high in (1.0, 2.0, 1.0):
        assert memory.replay({"x": FloatDistribution(0.0, high)}, make) == 1
    assert made == [1, 1]
    assert memory.cube({"x": FloatDistribution(0.0, 1.0)}) is memory.cube({"x": FloatDistribution(0.0, 1.0)})

"""What holds for every vector world, and for names; a family is a row of `WORLDS`."""

from __future__ import annotations

import json
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.worlds import vector_atari, vector_gym, vector_minatar, vector_suite
from factotum.worlds.suites import atari, common, minatar
from factotum.worlds.vector import VectorWorld, make_vector, row_seeds, vector_name, vector_names

WORLDS = (
    "minatar/asterix",
    "minatar/breakout",
    "minatar/freeway",
    "minatar/seaquest",
    "minatar/space_invaders",
    "atari/Breakout",
    "gym/CartPole-v1",
    "gym/Pendulum-v1",
    "babyai/GoToRedBallNoDists",
    "box2d/LunarLander",
)
NEEDED = {"minatar": "minatar", "atari": "ale_py", "babyai": "minigrid", "box2d": "Box2D"}
STEPS = 60


@pytest.fixture(params=WORLDS)
def name(request):
    pytest.importorskip(NEEDED.get(request.param.partition("/")[0], "numpy"))
    return request.param


def actions(world, steps, seed=0):
    generator = np.random.default_rng(seed)
    space = world.action_space
    if isinstance(space, spaces.Box):
        return generator.uniform(space.low, space.high, (steps, world.count, *space.shape)).astype(np.float32)
    return generator.integers(space.n, size=(steps, world.count))


def played(world, seed, given):
    """The first observation and all transitions."""
    return world.reset(seed), [world.step(action) for action in given]


def same(one, other, rows=slice(None)):
    first, steps = zip(one, other, strict=True)
    pairs = [first, *((a, b) for x, y in zip(*steps, strict=True) for a, b in zip(x, y, strict=True))]
    return all(np.array_equal(a[rows], b[rows]) for a, b in pairs)


def test_arrays_are_as_declared(name):
    world = make_vector(name, 3)
    assert isinstance(world, VectorWorld)
    assert (world.name, world.count) == (name, 3)
    observation, steps = played(world, 0, actions(world, 5))
    for seen in (observation, *(moved.observation for moved in steps)):
        assert (seen.shape, seen.dtype) == (
            (3, *world.observation_space.shape),
            world.observation_space.dtype,
        )
        assert all(row in world.observation_space for row in seen)
    for moved in steps:
        assert moved.reward.dtype == np.float32
        assert {array.dtype for array in moved[2:]} == {np.dtype(bool)}
        assert {array.shape for array in moved[1:]} == {(3,)}
    world.close()


def test_seed_and_actions_fix_everything(name):
    world, twin = make_vector(name, 4, threads=1), make_vector(name, 4, threads=2)
    given = actions(world, STEPS)
    first = played(world, 5, given)
    assert same(first, played(twin, 5, given))
    assert same(first, played(world, 5, given))  # what went before leaves no trace
    assert not same(first, played(world, 6, given))


def test_a_row_does_not_depend_on_how_many_there_are(name):
    few, many = make_vector(name, 2), make_vector(name, 5)
    given = actions(many, STEPS)
    assert same(played(few, 1, given[:, :2]), played(many, 1, given), rows=slice(2))


def test_rows_differ(name):
    world = make_vector(name, 8)
    _, steps = played(world, 3, actions(world, STEPS)[:, :1].repeat(8, 1))
    last = steps[-1].observation
    assert len({row.tobytes() for row in last}) > 1


def test_observations_are_not_written_over(name):
    world = make_vector(name, 2)
    first = world.reset(0)
    copy = first.copy()
    kept = [(moved.observation, moved.observation.copy()) for moved in map(world.step, actions(world, 10))]
    assert np.array_equal(first, copy)
    assert all(np.array_equal(a, b) for a, b in kept)


def test_a_dummy_step_follows_every_end_and_nothing_else(name, monkeypatch):
    if name == "gym/Pendulum-v1":  # by itself it goes on for 200 steps
        make = gymnasium.make_vec
        monkeypatch.setattr(
            vector_gym.gymnasium, "make_vec", lambda *a, **k: make(*a, **k, max_episode_steps=20)
        )
    for suite in list(vector_suite.SUITES.values()):
        short = replace(suite, task=lambda name, suite=suite: replace(suite.task(name), max_steps=20))
        monkeypatch.setitem(vector_suite.SUITES, suite.name, short)
    monkeypatch.setattr(vector_minatar, "MAX_STEPS", 20)
    monkeypatch.setattr(vector_atari, "MAX_FRAMES", 80)
    world = make_vector(name, 4)
    _, steps = played(world, 0, actions(world, STEPS))
    over, ends = np.zeros(4, bool), 0
    for moved in steps:
        assert np.array_equal(moved.begun, over)
        assert not (moved.reward[moved.begun]).any()
        assert not (moved.terminated & moved.truncated).any()
        over = moved.terminated | moved.truncated
        assert not (over & moved.begun).any()
        ends += over.sum()
    assert ends >= 8


def test_actions_are_checked(name):
    world = make_vector(name, 2)
    given = actions(world, 1)[0]
    with pytest.raises(UserError, match="expected a reset before the first step"):
        world.step(given)
    world.reset(0)
    with pytest.raises(UserError, match="expected actions of shape"):
        world.step(given[:1])
    if isinstance(world.action_space, spaces.Discrete):
        for wrong in (-1, world.action_space.n):
            with pytest.raises(UserError, match=f"from 0 to {world.action_space.n - 1}"):
                world.step(np.array([0, wrong]))
        with pytest.raises(UserError, match="integer actions"):
            world.step(np.array([0.0, 1.0]))
    else:
        with pytest.raises(UserError, match="finite"):
            world.step(np.full_like(given, np.nan))


def test_a_snapshot_goes_on_bit_for_bit_or_is_none(name):
    world = make_vector(name, 3)
    given = actions(world, 2 * STEPS)
    played(world, 0, given[:STEPS])
    snapshot = world.snapshot()
    if snapshot is None:
        with pytest.raises(UserError, match="another seed"):
            world.restore({})
        return
    stored = json.loads(json.dumps(snapshot))
    rest = [world.step(action) for action in given[STEPS:]]
    for _ in range(2):  # a snapshot is not used up
        twin = make_vector(name, 3)
        twin.reset(99)
        seen = twin.restore(stored)
        again = [twin.step(action) for action in given[STEPS:]]
        assert same((seen, rest), (seen, again))
    with pytest.raises(UserError, match="expected 2 games"):
        make_vector(name, 2).restore(stored)


def test_no_environment_is_refused(name):
    with pytest.raises(UserError, match="at least one environment, got 0"):
        make_vector(name, 0)


def test_row_seeds_are_unrelated_between_seeds():
    every = [seed for start in range(50) for seed in row_seeds(start, 50)]
    assert len(set(every)) == len(every)
    assert all(0 <= seed < 2**31 for seed in every)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("atari/Pong", "atari/Pong"),
        ("atari-pong", "atari/Pong"),
        ("ALE/Pong-v5", "atari/Pong"),
        ("atari/ms_pacman", "atari/MsPacman"),
        ("minatar-breakout", "minatar/breakout"),
        ("minatar/SpaceInvaders", "minatar/space_invaders"),
        ("gym/CartPole-v1", "gym/CartPole-v1"),
        ("CartPole-v1", "gym/CartPole-v1"),
        ("gym-pendulum-v1", "gym/Pendulum-v1"),
    ],
)
def test_names_are_understood(text, found):
    assert vector_name(text) == found
    assert found in vector_names()


@pytest.mark.parametrize(
    ("text", "hint"),
    [("atari/Pang", "atari/Pong"), ("minatar/breakdown", "minatar/breakout"), ("", "expected one of")],
)
def test_unknown_names_are_refused(text, hint):
    with pytest.raises(UserError, match=f"unknown world '{text}'.*{hint}"):
        make_vector(text, 1)


def test_names_are_unique_and_every_atari_suite_game_is_among_them():
    pytest.importorskip("ale_py")
    names = vector_names()
    assert len(set(names)) == len(names)
    assert set(names) >= {*atari.SUITE.names, *minatar.SUITE.names}


@pytest.mark.parametrize(("name", "module"), [("minatar/breakout", "minatar"), ("atari/Pong", "ale_py")])
def test_missing_packages_are_named(name, module, monkeypatch):
    monkeypatch.setattr(common, "find_spec", lambda name: None)
    vector_atari._roms.cache_clear()
    minatar.game_module.cache_clear()
    monkeypatch.setattr("factotum.worlds.vector.find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"{module} is not installed: run  pip install"):
        make_vector(name, 1)
    monkeypatch.undo()
    vector_atari._roms.cache_clear()


@pytest.mark.parametrize(
    ("id", "complaint"),
    [("Blackjack-v1", "expected Box observations"), ("FrozenLake-v1", "expected Box observations")],
)
def test_other_spaces_are_refused(id, complaint):
    with pytest.raises(UserError, match=complaint):
        make_vector(f"gym/{id}", 1)


def test_double_precision_comes_as_single():
    gymnasium.register("Double-v0", entry_point=Double)
    try:
        world = make_vector("gym/Double-v0", 2)
        assert world.observation_space.dtype == np.float32
        assert world.reset(0).dtype == np.float32
        assert world.step(np.array([0, 1])).observation.dtype == np.float32
    finally:
        del gymnasium.registry["Double-v0"]


class Double(gymnasium.Env):
    observation_space = spaces.Box(-1, 1, (2,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2), {}

    def step(self, action):
        return np.ones(2), 1.0, False, False, {}

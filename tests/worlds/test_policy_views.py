"""A policy sees in one environment of a suite what it saw in its own world of many."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.worlds.policy_views import policy_view, stacked, view_space
from factotum.worlds.suites import atari, registry
from factotum.worlds.vector import make_vector


@pytest.mark.parametrize(
    ("game", "rom"), [("Pong", "pong"), ("Breakout", "breakout"), ("Seaquest", "seaquest")]
)
def test_screens_are_those_of_ale_pys_vector_environment(game, rom):
    ale_py = pytest.importorskip("ale_py")
    from ale_py.vector_env import AtariVectorEnv

    gymnasium.register_envs(ale_py)
    many = AtariVectorEnv(
        rom, 1, num_threads=1, repeat_action_probability=0.0, full_action_space=False, img_height=84, img_width=84,
        grayscale=True, stack_num=4, frameskip=4, maxpool=True, noop_max=0, use_fire_reset=False,
    )  # fmt: skip
    seen, _ = many.reset(seed=np.array([3]))
    options = {"frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": False}
    one = gymnasium.make(f"ALE/{game}-v5", obs_type="grayscale", **options)
    screens = [one.reset(seed=3)[0]]
    generator = np.random.default_rng(0)
    for _ in range(40):
        difference = stacked(screens[-4:]).astype(int) - seen[0]
        assert np.abs(difference).max() <= 1  # one is rounded by ale-py
        assert np.mean(difference != 0) < 1e-3
        action = int(generator.integers(one.action_space.n))
        frames = [one.step(action)[0] for _ in range(4)]
        screens.append(np.maximum(*frames[-2:]))
        seen = many.step(np.array([action]))[0]


def test_an_episode_begins_black_and_the_screens_are_the_newest():
    pytest.importorskip("ale_py")
    task = registry.task("atari/Pong")
    env = task.make()
    observation, _ = env.reset(seed=0)
    view = policy_view(task, env)
    before = view(observation, None)
    assert before.shape == view_space(task).shape
    assert not before[:3].any()
    assert before[3].any()
    observation, *_ = env.step(0)
    after = view(observation, 0)
    assert np.array_equal(after[2], before[3])
    whole = env.get_wrapper_attr("screens")[-1]
    assert np.array_equal(observation["image"][..., -1], atari.shrink(whole))
    env.reset(seed=0)
    assert np.array_equal(view(observation, None), before)


def test_minatars_cells_are_those_of_its_world():
    pytest.importorskip("minatar")
    task, world = registry.task("minatar/seaquest"), make_vector("minatar/seaquest", 1)
    env = task.make()
    env.reset(seed=5)
    view = policy_view(task, env)
    world._games[0] = env.get_wrapper_attr("game")
    assert view_space(task) == world.observation_space
    assert np.array_equal(view(None, None), world._observe()[0])
    env.step(1)
    assert np.array_equal(view(None, 1), world._observe()[0])


def test_a_state_is_seen_as_it_is():
    task = registry.task("metaworld/reach")
    assert view_space(task).shape == (39,)
    view = policy_view(task, gymnasium.make("CartPole-v1"))
    assert view({"state": np.arange(3.0)}, None).tolist() == [0.0, 1.0, 2.0]


def test_what_no_policy_sees_is_refused():
    with pytest.raises(UserError, match="expected observations with a state or a grid"):
        view_space(registry.task("scenes/caption"))
    with pytest.raises(UserError, match="expected an environment of atari/Pong, got"):
        policy_view(registry.task("atari/Pong"), gymnasium.make("CartPole-v1"))

import numpy as np
import pytest

pytest.importorskip("metaworld")

from factotum.worlds.rollout import expert_actor, rollout
from factotum.worlds.suites import metaworld


@pytest.fixture(scope="module")
def door():
    chosen = metaworld.task("metaworld/door-open")
    return chosen, chosen.make()


def test_every_task_of_the_package_has_an_instruction_of_its_own():
    from metaworld.policies import ENV_POLICY_MAP

    assert {f"{name}-v3" for name in metaworld.INSTRUCTIONS} == set(ENV_POLICY_MAP)
    assert len(set(metaworld.INSTRUCTIONS.values())) == 50


def test_seeds_place_the_goal_and_show_it(door):
    _, env = door
    goals = np.stack([env.reset(seed=seed)[0]["state"][-3:] for seed in range(5)])
    assert len(np.unique(goals, axis=0)) == 5
    assert np.abs(goals).max() > 0


def test_same_seed_same_episode_in_any_environment(door):
    chosen, env = door

    def play(where):
        actor = expert_actor(where, chosen.make_expert)
        return rollout(where, seed=8, actor=actor, max_steps=30, measure="success")

    first, again, fresh = play(env), play(env), play(chosen.make())
    for other in (again, fresh):
        for mine, theirs in zip(first.observations, other.observations, strict=True):
            assert np.array_equal(mine["state"], theirs["state"])


def test_environments_do_not_share_a_model(door):
    chosen, env = door
    other = chosen.make()
    start = env.reset(seed=1)[0]["state"]
    other.reset(seed=2)
    quiet = np.zeros(4, np.float32)
    apart = env.step(quiet)[0]["state"]
    env.reset(seed=1)
    assert np.array_equal(apart, env.step(quiet)[0]["state"])
    assert not np.array_equal(start, other.reset(seed=2)[0]["state"])


def test_episode_ends_at_the_first_success(door):
    chosen, env = door
    actor = expert_actor(env, chosen.make_expert)
    episode = rollout(env, seed=3, actor=actor, max_steps=500, measure="success")
    assert (episode.success, episode.terminated, episode.score) == (True, True, 1.0)
    assert len(episode.actions) < 150
    assert all(np.abs(action).max() <= 1.0 for action in episode.actions)


def test_success_is_reported_at_each_step_and_actions_are_clipped(door):
    _, env = door
    env.reset(seed=0)
    far, *_, info = env.step(np.full(4, 50.0, np.float32))
    assert info["success"] is False
    env.reset(seed=0)
    near, *_ = env.step(np.ones(4, np.float32))
    assert np.array_equal(far["state"], near["state"])

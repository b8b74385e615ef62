"""Atari's vector world: what deep Q-learning's conventions say, and games that are not there."""

from __future__ import annotations

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.worlds import vector_atari
from factotum.worlds.suites import atari
from factotum.worlds.vector import make_vector

pytest.importorskip("ale_py")
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv


def random_play(world, steps, seed=0):
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        action = generator.integers(world.action_space.n, size=world.count)
        yield action, world.step(action)


@pytest.mark.parametrize("game", atari.ACTIONS)
def test_every_game_of_the_suite_has_its_minimal_actions(game):
    assert make_vector(f"atari/{game}", 1, threads=1).action_space.n == atari.ACTIONS[game]


def test_the_newest_frame_comes_last_and_episodes_begin_black(monkeypatch):
    monkeypatch.setattr(vector_atari, "MAX_FRAMES", 80)
    world = make_vector("atari/Breakout", 3)
    before = world.reset(0)
    assert world.newest == slice(3, 4)
    begun = np.ones(3, bool)
    ends = 0
    for _, moved in random_play(world, 50):
        assert not before[begun, :3].any()
        assert before[:, 3].any((1, 2)).all()
        assert np.array_equal(moved.observation[~moved.begun, :3], before[~moved.begun, 1:])
        before, begun = moved.observation, moved.begun
        ends += moved.truncated.sum()
    assert ends == 6


def test_the_limit_counts_frames_after_the_no_ops(monkeypatch):
    monkeypatch.setattr(vector_atari, "MAX_FRAMES", 80)
    world = make_vector("atari/Pong", 4)
    world.reset(0)
    cut = np.array([moved.truncated for _, moved in random_play(world, 21)])
    assert cut.sum(1).tolist() == [0] * 19 + [4, 0]


def test_no_ops_differ_between_rows_and_episodes(monkeypatch):
    monkeypatch.setattr(vector_atari, "MAX_FRAMES", 40)
    world = make_vector("atari/Seaquest", 8)
    starts = [world.reset(1)]
    starts += [moved.observation for _, moved in random_play(world, 12) if moved.begun.any()]
    assert len(starts) == 2
    assert len({row.tobytes() for start in starts for row in start}) > 8


def test_rewards_are_not_clipped_and_all_lives_are_one_episode(monkeypatch):
    world = make_vector("atari/SpaceInvaders", 4)
    step, lives = world._env.step, []

    def noted(action):
        result = step(action)
        lives.append(result[4]["lives"])
        return result

    monkeypatch.setattr(world._env, "step", noted)
    world.reset(0)
    rewards, over = [], np.zeros(4, bool)
    for _, moved in random_play(world, 1500):
        rewards.append(moved.reward)
        over = moved.terminated
        if over.any():
            break
    row = int(over.argmax())
    assert over.any()
    assert {int(left[row]) for left in lives} == {0, 1, 2, 3}
    assert {5.0, 10.0} <= set(np.unique(rewards))


def test_it_is_ale_s_own_environment_step_by_step():
    world = make_vector("atari/Qbert", 2, threads=1)
    twin = AtariVectorEnv("qbert", 2, reward_clipping=False)
    seeds = np.array(vector_atari.row_seeds(3, 2))
    assert np.array_equal(world.reset(3), twin.reset(seed=seeds)[0])
    for action, moved in random_play(world, 400):
        for ours, theirs in zip(moved[:4], twin.step(action)[:4], strict=True):
            assert np.array_equal(ours, theirs)


def test_unknown_games_and_missing_roms(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"unknown world 'atari/Pang': did you mean .*atari/Pong"):
        make_vector("atari/Pang", 1)
    with pytest.raises(UserError, match="unknown Atari game 'pong': did you mean Pong"):
        vector_atari.VectorAtari("pong", 1)
    for missing in (None, tmp_path / "pong.bin"):
        monkeypatch.setattr(roms, "get_rom_path", lambda name, path=missing: path)
        with pytest.raises(UserError, match=r"the ROM of Pong is missing .*: install ale-py again"):
            make_vector("atari/Pong", 1)


def test_close_may_be_called_twice():
    world = make_vector("atari/Pong", 1)
    world.close()
    world.close()

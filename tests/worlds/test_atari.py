"""Atari: declared spaces, stacking and skipping, references, and the planning experts."""

from __future__ import annotations

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.worlds.suites import atari, atari_experts, common
from factotum.worlds.suites.jat import jat_entry

pytest.importorskip("ale_py")


@pytest.mark.parametrize("name", atari.SUITE.names)
def test_every_game_is_bundled_with_the_declared_actions(name: str) -> None:
    task = atari.SUITE.task(name)
    env = task.make()
    assert env.observation_space == task.observation_space
    assert env.action_space == task.action_space
    observation, _ = env.reset(seed=0)
    assert observation in task.observation_space
    assert observation["instruction"] == task.instruction


def test_there_are_57_games_all_with_jat_references() -> None:
    assert len(atari.SUITE.names) == 57
    for name in atari.SUITE.names:
        task, entry = atari.SUITE.task(name), jat_entry(name)
        assert entry["name"].startswith("atari-")
        if task.make_expert is None:
            assert (task.random.score, task.expert.score) == (entry["random"], entry["expert"])


def test_suspect_references_say_so() -> None:
    assert "suspect: dqn_zoo has 2360.0" in atari.SUITE.task("atari/BattleZone").random.source
    assert "suspect" not in atari.SUITE.task("atari/BattleZone").expert.source


def test_seed_fixes_the_episode_and_no_ops_differ_between_seeds() -> None:
    env = atari.make("SpaceInvaders")

    def play(seed: int) -> bytes:
        env.reset(seed=seed)
        for action in (1, 2, 3, 1, 2, 0):
            observation = env.step(action)[0]
        return observation["image"].tobytes()

    assert play(1) == play(1)
    env.reset()
    assert play(1) == play(1)  # what went before leaves no trace
    assert len({play(seed) for seed in range(6)}) > 2


def test_the_newest_observation_comes_last_in_the_stack() -> None:
    env = atari.make("Pong")
    first = env.reset(seed=0)[0]["image"]
    assert all(np.array_equal(first[..., 0], first[..., channel]) for channel in range(4))
    second = env.step(2)[0]["image"]
    third = env.step(2)[0]["image"]
    assert np.array_equal(third[..., :3], second[..., 1:])
    assert not np.array_equal(second[..., 3], first[..., 3])


def test_an_action_lasts_four_frames() -> None:
    env = atari.make("Breakout")
    _, info = env.reset(seed=0)
    before = info["episode_frame_number"]
    assert env.step(1)[4]["episode_frame_number"] == before + 4


def test_rewards_are_not_clipped_and_all_lives_are_one_episode() -> None:
    env = atari.make("SpaceInvaders")
    generator = np.random.default_rng(0)
    _, info = env.reset(seed=0)
    lives, rewards, done = {info["lives"]}, [], False
    while not done:
        _, reward, terminated, truncated, info = env.step(generator.integers(6))
        lives.add(info["lives"])
        rewards.append(reward)
        done = terminated or truncated
    assert terminated
    assert lives == {0, 1, 2, 3}
    assert max(rewards) >= 5


def test_the_limit_counts_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atari, "MAX_STEPS", 5)
    env = atari.make("Pong")
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(5)] == [False] * 4 + [True]


def test_shrink_averages_areas() -> None:
    frame = np.zeros((210, 160), np.uint8)
    frame[:105] = 200
    small = atari.shrink(frame)
    assert small.shape == (80, 80)
    assert (small[:40] == 200).all()
    assert (small[40:] == 0).all()
    noise = np.random.default_rng(0).integers(0, 256, (210, 160), np.uint8)
    assert atari.shrink(noise).mean() == pytest.approx(noise.mean(), abs=0.1)


def test_pong_expert_wins_the_first_points() -> None:
    task = atari.SUITE.task("atari/Pong")
    env = task.make()
    observation, _ = env.reset(seed=0)
    planner = atari_experts.PLANNERS["Pong"]
    expert, action, points = atari_experts.look_ahead(planner, env), None, []
    while len(points) < 2:
        action = expert(observation, action)
        assert action in task.action_space
        observation, reward, *_ = env.step(action)
        points += [reward] if reward else []
    assert points == [1.0, 1.0]


@pytest.mark.parametrize("game", atari_experts.PLANNERS)
def test_expert_leaves_the_game_as_it_is_and_repeats_itself(game: str) -> None:
    task = atari.SUITE.task(f"atari/{game}")
    env = task.make()
    observation, _ = env.reset(seed=4)
    for _ in range(20):
        observation = env.step(1)[0]
    planner = atari_experts.PLANNERS[game]
    memory, screen = env.unwrapped.ale.getRAM().copy(), env.render().copy()
    actions = [atari_experts.look_ahead(planner, env)(observation, None) for _ in range(2)]
    assert actions[0] == actions[1]
    assert np.array_equal(env.unwrapped.ale.getRAM(), memory)
    assert np.array_equal(env.render(), screen)


def test_an_expert_is_offered_only_with_a_measured_score() -> None:
    for game in atari.ACTIONS:
        task = atari.SUITE.task(f"atari/{game}")
        assert (task.make_expert is not None) == (game in atari_experts.MEASURED)
        if task.make_expert is not None:
            assert "measured" in task.expert.source


def test_unknown_game() -> None:
    with pytest.raises(ValueError, match="unknown task 'atari/Pang': did you mean atari/Pong"):
        atari.SUITE.task("atari/Pang")


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=r"ale_py is not installed: run  pip install 'factotum\[atari\]'"):
        atari.make("Pong")

"""Whole games on known starts: scores that can be told beforehand, the same ones whoever plays."""

from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.recipes.play_vector import RandomPlayer, play_episodes
from factotum.worlds.vector import Transition, make_vector


class Countdown:
    """Row b of seed s ends after (s + b) % 4 + 1 steps, each worth 2 points; an action of 1 earns 10 more."""

    name, observation_space, action_space, newest = (
        "countdown",
        spaces.Box(0, 9, (1,)),
        spaces.Discrete(2),
        None,
    )

    def __init__(self, count, reward=2.0):
        self.count, self.reward, self.resets = count, reward, []

    def reset(self, seed):
        self.resets.append(seed)
        self.left, self.over = (seed + np.arange(self.count)) % 4 + 1, np.zeros(self.count, bool)
        return self.left[:, None].astype(np.float32)

    def step(self, action):
        begun = self.over
        self.left = np.where(begun, 1, self.left - 1)
        reward = np.where(begun, 0, self.reward + 10 * action).astype(np.float32)
        self.over = ~begun & (self.left == 0)
        return Transition(
            self.left[:, None].astype(np.float32), reward, self.over, np.zeros(self.count, bool), begun
        )


class Always:
    """Takes one action, and notes when episodes were said to begin."""

    def __init__(self, action):
        self.action, self.first = action, []

    def initial_state(self, batch_size):
        return 0

    def step(self, inputs, state):
        self.first.append(np.asarray(inputs[1]).copy())
        return np.full(len(inputs[0]), self.action), state + 1


def test_scores_are_of_whole_first_games_alone():
    lengths = (1_000_000_000 + np.arange(4)) % 4 + 1
    scores = play_episodes(Countdown(4), Always(0), 4)
    assert scores.tolist() == (2.0 * lengths).tolist()
    assert play_episodes(Countdown(4), Always(1), 4).tolist() == (12.0 * lengths).tolist()


def test_rounds_go_on_from_other_seeds_and_stop_at_the_number_asked():
    world, agent = Countdown(4), Always(0)
    assert len(play_episodes(world, agent, 10, seed=2)) == 10
    assert world.resets == [1_002_000_000, 1_002_000_004, 1_002_000_008]
    assert agent.first[0].all()
    assert not agent.first[1].any()


def test_a_game_that_does_not_end_is_cut():
    agent = Always(0)
    assert play_episodes(Countdown(4), agent, 4, longest=2).tolist() == [2, 4, 4, 4]
    assert len(agent.first) == 2


def test_watch_sees_who_still_plays():
    seen = []
    play_episodes(
        Countdown(4), Always(1), 3, watch=lambda o, first, a, playing: seen.append((a, playing.sum()))
    )
    assert [count for _, count in seen] == [3, 2, 1]
    assert all((action == 1).all() for action, _ in seen)


@pytest.mark.parametrize("name", ["minatar/breakout", "gym/CartPole-v1"])
def test_everyone_starts_from_the_same_states(name):
    world, starts = make_vector(name, 4), []
    space = world.observation_space
    for seed, player in ((0, RandomPlayer(world, 1)), (0, Always(0)), (1, Always(0))):
        first = []
        play_episodes(world, player, 8, seed, longest=3, watch=lambda o, f, a, p, seen=first: seen.append(o))
        assert space.contains(first[0][0])
        starts.append(np.stack([first[0], first[len(first) // 2]]))
    assert np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0][0], starts[0][1])
    assert name.startswith("minatar") or not np.array_equal(starts[0], starts[2])


def test_scores_do_not_depend_on_who_played_before():
    world = make_vector("minatar/breakout", 4)
    once = play_episodes(world, RandomPlayer(world, 3), 6, longest=200)
    play_episodes(world, RandomPlayer(world, 5), 4)
    assert play_episodes(world, RandomPlayer(world, 3), 6, longest=200).tolist() == once.tolist()
    assert (once >= 0).all()


def test_random_player_draws_every_action_and_keeps_within_bounds():
    world = Countdown(500)
    actions, _ = RandomPlayer(world).step((None, None), 500)
    assert 180 < actions.sum() < 320
    box = SimpleNamespace(name="box", action_space=spaces.Box(-2, 1, (3,), np.float32))
    drawn, _ = RandomPlayer(box).step((None, None), 400)
    assert drawn.shape == (400, 3)
    assert drawn.dtype == np.float32
    assert -2 <= drawn.min() < -1.9 < 0.9 < drawn.max() <= 1


def test_wrong_use_is_refused():
    with pytest.raises(UserError, match="episodes: expected 1 to"):
        play_episodes(Countdown(2), Always(0), 0)
    with pytest.raises(UserError, match="countdown: rewards: expected finite numbers, got nan"):
        play_episodes(Countdown(2, reward=float("nan")), Always(0), 2)
    open_ended = SimpleNamespace(name="open", action_space=spaces.Box(-np.inf, np.inf, (1,)))
    with pytest.raises(UserError, match="open: expected bounded actions"):
        RandomPlayer(open_ended)

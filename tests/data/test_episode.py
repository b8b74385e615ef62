from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from factotum.data.episode import Episode, as_space_types, leaves_over_time
from tests.data.examples import OBSERVATIONS, make_episode


def test_steps_come_back_as_they_were_stacked():
    observations = [{"word": w, "state": np.array([i, i + 1.0])} for i, w in enumerate("abc")]
    episode = Episode.from_steps(observations, ["x", "y"], [1.0, 2.0], False, True, seed=3, score=0.5)
    assert len(episode) == 2
    assert episode.total_reward == 3.0
    assert episode.truncated.tolist() == [False, True]
    assert episode.terminated.tolist() == [False, False]
    for step, observation in enumerate(observations):
        back = episode.observation(step)
        assert back["word"] == observation["word"]
        np.testing.assert_array_equal(back["state"], observation["state"])
    assert [episode.action(step) for step in range(2)] == ["x", "y"]


def test_every_kind_of_leaf_has_one_more_observation_than_actions():
    episode = make_episode(0, steps=6, action="dict")
    assert {len(leaf) for _, leaf in leaves_over_time(episode.observations)} == {7}
    assert {len(leaf) for _, leaf in leaves_over_time(episode.actions)} == {6}


@pytest.mark.parametrize(
    ("observations", "actions", "rewards", "message"),
    [
        (
            {"state": np.zeros((2, 1))},
            np.zeros(2),
            [0, 0],
            "observations/state: expected 3 entries for 2 rewards, got 2",
        ),
        ({"word": ["a", "b", "c", "d"]}, np.zeros(2), [0, 0], "observations/word: expected 3 entries"),
        (np.zeros(3), np.zeros(3), [0, 0], "actions: expected 2 entries for 2 rewards, got 3"),
        (np.zeros(1), np.zeros(0), [], "at least one step, got none"),
    ],
)
def test_lengths_that_do_not_fit_are_named(observations, actions, rewards, message):
    with pytest.raises(ValueError, match=message):
        Episode(observations, actions, rewards, np.zeros(len(rewards), bool), np.zeros(len(rewards), bool))


def test_no_steps_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one step"):
        Episode.from_steps([np.zeros(2)], [], [], True, False)


def test_observations_that_change_their_keys_are_refused():
    with pytest.raises(ValueError, match=r"expected the keys \['a'\] at every step"):
        Episode.from_steps([{"a": 1}, {"b": 1}], [0], [0.0], True, False)


def test_space_types_cast_numbers_but_hide_nothing():
    space = spaces.Dict(
        {"grid": spaces.MultiDiscrete([200], dtype=np.uint8), "x": spaces.Box(0, 1, (1,), np.float32)}
    )
    tree = {"grid": np.array([[3], [256]]), "x": np.array([[0.1], [7.0]]), "extra": np.zeros(2)}
    cast = as_space_types(space, tree)
    assert cast["x"].dtype == np.float32
    assert cast["x"][1, 0] == 7.0
    assert cast["grid"][1, 0] == 256, "an integer that does not fit must not wrap around"
    assert cast["extra"] is tree["extra"]


def test_space_types_leave_a_wrong_kind_of_number_alone():
    cast = as_space_types(OBSERVATIONS["direction"], np.array([0.5]))
    assert cast.dtype == np.float64

"""Counts follow the weights; adaptive weights follow the losses and survive a resume."""

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.data.mixture import Mixture, draw_tasks


def test_counts_differ_from_their_share_by_less_than_one():
    weights = np.array([5.0, 2.0, 2.0, 1.0])
    for seed in range(50):
        counts = np.bincount(draw_tasks(np.random.default_rng(seed), weights, 16), minlength=4)
        assert np.abs(counts - 1.6 * weights).max() < 1


def test_every_task_comes_in_the_long_run():
    drawn = np.concatenate(
        [draw_tasks(np.random.default_rng(s), np.array([0.97, 0.03]), 4) for s in range(500)]
    )
    assert 0.02 < (drawn == 1).mean() < 0.04


def test_fixed_mixture_ignores_losses():
    mixture = Mixture({"a": 3.0, "b": 1.0})
    mixture({"loss/a": 0.0, "loss/b": 9.0})
    assert mixture.weights().tolist() == [0.75, 0.25]


def test_adaptive_mixture_turns_to_what_is_not_yet_learnt_but_forgets_nothing():
    mixture = Mixture({"a": 1.0, "b": 1.0}, adaptivity=1.0)
    for _ in range(500):
        mixture({"loss/a": 0.0, "loss/b": 1.0, "loss": 0.5})
    a, b = mixture.weights()
    assert b / a == pytest.approx(5.0, rel=0.01)  # the floor keeps a fifth


def test_state_comes_back():
    mixture, other = Mixture({"a": 1.0, "b": 1.0}, 1.0), Mixture({"a": 1.0, "b": 1.0}, 1.0)
    for loss in (3.0, 2.0, 1.0):
        mixture({"loss/a": loss, "loss/b": 3.0})
    other.load_state_dict(mixture.state_dict())
    np.testing.assert_array_equal(mixture.weights(), other.weights())


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": float("nan")}])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(UserError, match="expected positive numbers"):
        Mixture(weights)

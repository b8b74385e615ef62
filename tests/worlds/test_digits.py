"""Handwritten digits: real scans, right names, and no held-out scan in training."""

from __future__ import annotations

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.worlds.suites import common, digits
from factotum.worlds.suites.one_step import FIRST_EVALUATION_SEED

pytest.importorskip("sklearn")

TASK = digits.SUITE.task("digits/name")


def test_spaces_expert_and_rewards() -> None:
    env = TASK.make()
    assert env.observation_space == TASK.observation_space
    assert env.action_space == TASK.action_space
    for seed in (0, 1, 1436, 1437, FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + 400):
        observation, info = env.reset(seed=seed)
        assert observation in TASK.observation_space
        assert info["answer"] in digits.WORDS
        assert env.step(TASK.make_expert(env)(observation, None))[1] == 1.0
        env.reset(seed=seed)
        wrong = digits.WORDS[(digits.WORDS.index(info["answer"]) + 1) % 10]
        _, reward, terminated, _, info = env.step(wrong)
        assert (reward, terminated, info["success"]) == (0.0, True, False)


def test_image_and_name_are_those_of_one_scan() -> None:
    from sklearn.datasets import load_digits

    scans = load_digits()
    observation, info = TASK.make().reset(seed=7)
    small = observation["image"][::4, ::4, 0]
    same = [i for i in range(1797) if np.array_equal((scans.images[i] * 255 / 16).round(), small)]
    assert [digits.WORDS[scans.target[i]] for i in same] == [info["answer"]]


def test_held_out_scans_never_occur_in_training() -> None:
    training, held_out = digits.split()
    assert len(training) == 1438
    assert len(held_out) == 359
    assert sorted(training + held_out) == list(range(1797))
    env = TASK.make()
    shown = {env.reset(seed=seed)[0]["image"].tobytes() for seed in range(len(training))}
    env.reset(seed=0)
    shown |= {env.reset()[0]["image"].tobytes() for _ in range(50)}  # without a seed: the same side
    start = FIRST_EVALUATION_SEED
    tested = {env.reset(seed=start + seed)[0]["image"].tobytes() for seed in range(len(held_out))}
    tested |= {env.reset()[0]["image"].tobytes() for _ in range(50)}
    assert len(tested) == len(held_out)
    assert not shown & tested


def test_render_is_rgb() -> None:
    env = TASK.make()
    env.reset(seed=0)
    assert env.render().shape == (32, 32, 3)


def test_unknown_task() -> None:
    with pytest.raises(ValueError, match="did you mean digits/name"):
        digits.SUITE.task("digits/names")


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "find_spec", lambda module: None)
    digits._scans.cache_clear()
    with pytest.raises(UserError, match=r"sklearn is not installed: run  pip install 'factotum\[digits\]'"):
        TASK.make()

"""BabyAI as images: same game and bot as in symbols, seen through rendered cells only."""

from __future__ import annotations

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.worlds.suites import babyai, common, pixels

pytest.importorskip("minigrid")


@pytest.mark.parametrize("name", pixels.SUITE.names)
def test_bot_solves_the_level_seen_as_images(name: str) -> None:
    task = pixels.SUITE.task(name)
    env = task.make()
    assert env.observation_space == task.observation_space
    assert env.action_space == task.action_space
    observation, _ = env.reset(seed=3)
    expert, action, steps, reward, done = task.make_expert(env), None, 0, 0.0, False
    while not done:
        assert observation in task.observation_space
        action = expert(observation, action)
        assert action in task.action_space
        observation, reward, terminated, truncated, _ = env.step(action)
        done, steps = terminated or truncated, steps + 1
    assert terminated
    assert reward > 0
    assert steps <= task.max_steps


def test_same_game_as_in_symbols() -> None:
    seen, symbolic = pixels.make("GoToLocal"), babyai.make("GoToLocal")
    first, _ = seen.reset(seed=11)
    other, _ = symbolic.reset(seed=11)
    assert sorted(first) == ["image", "instruction"]
    assert first["instruction"] == other["instruction"]
    for action in (2, 1, 2, 0, 2, 2):
        assert seen.step(action)[1:4] == symbolic.step(action)[1:4]
        assert seen.unwrapped.agent_pos == symbolic.unwrapped.agent_pos


def test_image_shows_the_cells_ahead_and_the_agent_at_the_bottom() -> None:
    env = pixels.make("GoToRedBall")
    image = env.reset(seed=0)[0]["image"]
    assert not image[56:].any()
    assert not image[:, 56:].any()
    agent = image[48:56, 24:32].reshape(-1, 3).astype(int)
    assert (agent[:, 0] - agent[:, 2] > 100).sum() > 8  # the red triangle
    turned = env.step(0)[0]["image"]
    assert not np.array_equal(turned, image)
    assert np.array_equal(turned[48:56, 24:32], image[48:56, 24:32])  # the view turns with the agent


def test_a_seed_fixes_the_episode() -> None:
    env = pixels.make("PickupLoc")
    images = [env.reset(seed=seed)[0]["image"] for seed in (1, 1, 2)]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_references_are_those_of_the_symbolic_level() -> None:
    for name in pixels.SUITE.names:
        task, twin = pixels.SUITE.task(name), babyai.SUITE.task(name.replace("pixels", "babyai"))
        assert task.max_steps == twin.max_steps
        assert task.measure == twin.measure
        for own, borrowed in ((task.random, twin.random), (task.expert, twin.expert)):
            assert (own is None) == (borrowed is None)
            assert own is None or (own.score == borrowed.score and twin.name in own.source)


def test_unknown_level() -> None:
    with pytest.raises(ValueError, match="unknown task 'pixels/GoToBall': did you mean pixels/GoToRedBall"):
        pixels.SUITE.task("pixels/GoToBall")


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=r"minigrid is not installed: run  pip install 'factotum\[babyai\]'"):
        pixels.make("GoToObj")

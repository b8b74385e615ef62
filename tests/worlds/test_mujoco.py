"""MuJoCo: declared spaces are true, scripted experts do what they claim."""

from __future__ import annotations

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.worlds.suites import common, mujoco, mujoco_experts
from factotum.worlds.suites.task import Task

pytest.importorskip("mujoco")


def _play(task: Task, seed: int) -> float:
    env = task.make()
    observation, _ = env.reset(seed=seed)
    expert, action, total, done = task.make_expert(env), None, 0.0, False
    while not done:
        action = expert(observation, action)
        assert action in task.action_space
        observation, reward, terminated, truncated, _ = env.step(action)
        total, done = total + reward, terminated or truncated
    return total


@pytest.mark.parametrize("name", mujoco.SUITE.names)
def test_declared_spaces_and_limits_are_those_of_the_environment(name: str) -> None:
    task = mujoco.SUITE.task(name)
    env = task.make()
    assert env.observation_space == task.observation_space
    assert env.action_space == task.action_space
    assert env.spec.max_episode_steps == task.max_steps
    observation, _ = env.reset(seed=0)
    again, _ = env.reset(seed=0)
    assert observation in task.observation_space
    assert observation["instruction"] == task.instruction
    assert np.array_equal(observation["state"], again["state"])
    after = env.step(task.action_space.high)[0]
    assert after in task.observation_space
    assert not np.array_equal(after["state"], again["state"])


@pytest.mark.parametrize(
    ("body", "least"),
    [("InvertedPendulum", 1000), ("InvertedDoublePendulum", 9350), ("Reacher", -8), ("Swimmer", 300)],
)
def test_expert_reaches_its_score(body: str, least: float) -> None:
    assert _play(mujoco.SUITE.task(f"mujoco/{body}"), seed=5) >= least


@pytest.mark.parametrize("body", mujoco_experts.EXPERTS)
def test_expert_does_not_move_the_world(body: str) -> None:
    task = mujoco.SUITE.task(f"mujoco/{body}")
    env = task.make()
    observation, _ = env.reset(seed=0)
    data = env.unwrapped.data
    before = data.qpos.copy(), data.qvel.copy(), data.time
    expert = task.make_expert(env)
    assert np.array_equal(expert(observation, None), expert(observation, None))
    assert np.array_equal(before[0], data.qpos)
    assert np.array_equal(before[1], data.qvel)
    assert before[2] == data.time


def test_riccati_gain_solves_the_scalar_equation() -> None:
    # a = 1.2, b = 0.5, q = 1, r = 0.1: p = q + a²p - (abp)² / (r + b²p)
    gain = mujoco_experts.riccati_gain(np.array([[1.2]]), np.array([[0.5]]))
    roots = np.roots([0.25, 0.1 - 0.1 * 1.44 - 0.25, -0.1])
    value = float(roots.max())
    assert gain.item() == pytest.approx(1.2 * 0.5 * value / (0.1 + 0.25 * value))


@pytest.mark.parametrize("target", [(0.1, 0.05), (-0.12, 0.1), (0.0, -0.2)])
def test_elbow_angles_put_the_tip_on_the_target(target: tuple[float, float]) -> None:
    for shoulder, elbow in mujoco_experts.elbow_angles(*target, 0.1, 0.11):
        tip = [0.1 * turn(shoulder) + 0.11 * turn(shoulder + elbow) for turn in (np.cos, np.sin)]
        assert tip == pytest.approx(target)


def test_references_name_their_source() -> None:
    task = mujoco.SUITE.task("mujoco/Ant")
    assert task.expert.score == pytest.approx(5846.4161)
    assert "v4" in task.expert.source
    for name in mujoco.SUITE.names:
        task = mujoco.SUITE.task(name)
        assert task.expert.score > task.random.score


def test_unknown_body() -> None:
    with pytest.raises(ValueError, match="unknown task 'mujoco/Walker': did you mean mujoco/Walker2d"):
        mujoco.SUITE.task("mujoco/Walker")


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=r"mujoco is not installed: run  pip install 'factotum\[mujoco\]'"):
        mujoco.make("Ant")

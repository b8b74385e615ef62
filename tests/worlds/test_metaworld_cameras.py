"""Meta-World through cameras: the same tasks; objects and goals are in the pictures alone, which come now and then."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from factotum.core.checks import UserError
from factotum.worlds.rollout import expert_actor, rollout
from factotum.worlds.suites import metaworld, metaworld_cameras, registry

pytest.importorskip("metaworld")


@pytest.fixture
def env():
    if not metaworld_cameras.can_render():
        pytest.skip("no renderer")
    made = registry.task("cameras/drawer-open").make()
    yield made
    made.close()


def test_the_same_task_seen_otherwise(env):
    twin = metaworld.make("drawer-open")
    seen, whole = env.reset(seed=4)[0], twin.reset(seed=4)[0]
    assert sorted(seen) == ["corner", "hand", "instruction", "state"]
    action = np.array([0.5, -0.5, 0.2, 0.0], np.float32)
    for _ in range(3):
        assert np.array_equal(seen["state"], whole["state"][list(metaworld_cameras.HAND)])
        (seen, *mine), (whole, *theirs) = env.step(action), twin.step(action)
        assert mine[:3] == theirs[:3]
    assert np.array_equal(env.full_state, whole["state"])


def test_pictures_are_taken_now_and_then_and_show_what_moves(env):
    pictures = [env.reset(seed=4)[0]]
    for _ in range(8):
        pictures.append(env.step(np.ones(4, np.float32))[0])
    for name in metaworld_cameras.CAMERAS:
        changed = [not np.array_equal(a[name], b[name]) for a, b in pairwise(pictures)]
        assert changed == [False] * 3 + [True] + [False] * 3 + [True], name
        assert pictures[0][name].std() > 10
    assert not np.array_equal(pictures[0]["corner"], env.reset(seed=5)[0]["corner"])


def test_the_scripted_policy_sees_the_whole_state(env):
    task = registry.task("cameras/drawer-open")
    actor = expert_actor(env, task.make_expert)
    assert rollout(env, seed=1, actor=actor, max_steps=200, measure="success").score == 1.0


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(metaworld_cameras, "can_render", lambda: False)
    with pytest.raises(UserError, match="cameras: expected a renderer"):
        metaworld_cameras.make("drawer-open")
    with pytest.raises(UserError, match="unknown task 'cameras/assembly'"):
        registry.task("cameras/assembly")

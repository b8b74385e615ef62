"""Meta-World seen through cameras: pictures of two cameras, and of the state the hand alone (package metaworld).

The arm, the tasks, the scripted policies and the scores are those of the `metaworld` suite. What is seen is the picture
of a camera that stands in a corner and of one at the hand, 64 x 64 pixels each, and of the state the hand's place and
gripper now and a step before; where objects and goals are is in the pictures alone. Pictures are taken at every
`EVERY`-th step, the state at each; between two pictures the last one stays in the observation.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from functools import cache, partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.core.checks import UserError, unknown
from factotum.worlds.suites import metaworld
from factotum.worlds.suites.common import render_offscreen, require, state_space, with_instruction
from factotum.worlds.suites.task import Env, Expert, Reference, Suite, Task

CAMERAS = {"corner": "corner2", "hand": "gripperPOV"}
"""Names of the observation's pictures, and of the package's cameras."""

SIZE = 64
EVERY = 4
HAND = (0, 1, 2, 3, 18, 19, 20, 21)
"""Entries of the state that are the robot's own: place of the hand and gripper, now and a step before."""

LEVELS = (
    "reach",
    "button-press",
    "button-press-topdown",
    "coffee-button",
    "door-close",
    "door-open",
    "drawer-close",
    "drawer-open",
    "faucet-close",
    "faucet-open",
    "handle-press",
    "plate-slide",
    "window-close",
    "window-open",
)
"""Tasks whose goal can be seen: all but `reach`, whose goal is a spot that the cameras draw."""

_PICTURES: dict[str, Any] = {name: spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8) for name in CAMERAS}
OBSERVATION_SPACE = with_instruction(state=state_space(len(HAND)), **_PICTURES)


class Cameras(gymnasium.Wrapper):
    """A task of the `metaworld` suite seen through cameras; `full_state` is what its scripted policy looks at."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = OBSERVATION_SPACE
        self.full_state = np.zeros(0, np.float32)
        self._steps = 0
        self._pictures: dict[str, np.ndarray] = {}
        self._renderer: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._steps = 0
        return self._seen(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Move the hand."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        return self._seen(observation), reward, terminated, truncated, info

    def render(self) -> Any:
        """The corner's picture."""
        return self._pictures["corner"]

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None
        super().close()

    def _seen(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.full_state = observation["state"]
        if self._steps % EVERY == 0:
            self._renderer = self._renderer or _renderer(self.env.unwrapped)
            self._pictures = {
                name: _draw(self._renderer, self.env.unwrapped, camera) for name, camera in CAMERAS.items()
            }
        state = self.full_state[list(HAND)]
        return {"instruction": observation["instruction"], "state": state, **self._pictures}


def _mujoco() -> Any:
    """The package, with a renderer that needs no display."""
    render_offscreen()
    import mujoco

    found, wanted = getattr(mujoco.gl_context, "GLContext", None), os.environ.get("MUJOCO_GL", "")
    if wanted not in getattr(found, "__module__", "none"):  # it was loaded before a renderer was chosen
        importlib.reload(mujoco.gl_context)
    return mujoco


@cache
def can_render() -> bool:
    """Whether this machine draws pictures: EGL, OSMesa or a display is there."""
    try:
        context = _mujoco().gl_context.GLContext(8, 8)
        context.make_current()
        context.free()
    except Exception:  # each of the libraries below fails in ways of its own
        return False
    return True


def _renderer(env: Any) -> Any:
    env.model.vis.quality.offsamples = 0
    return _mujoco().Renderer(env.model, SIZE, SIZE)


def _draw(renderer: Any, env: Any, camera: str) -> np.ndarray:
    """A picture without shadows, reflections and sky, which cost a CPU most of the time."""
    from mujoco import mjtRndFlag

    renderer.update_scene(env.data, camera)
    for flag in (mjtRndFlag.mjRND_SHADOW, mjtRndFlag.mjRND_REFLECTION, mjtRndFlag.mjRND_SKYBOX):
        renderer.scene.flags[flag] = 0
    frame = renderer.render()
    return (frame[::-1, ::-1] if camera == CAMERAS["corner"] else frame).copy()  # that one hangs upside down


def make(name: str) -> gymnasium.Env:
    """A task as this suite sees it.

    Raises:
        UserError: metaworld is not installed, or there is nothing to draw pictures with.
    """
    require("metaworld", "metaworld")
    if not can_render():
        raise UserError(
            "cameras: expected a renderer (EGL or OSMesa; MUJOCO_GL says which), found none that works"
        )
    return Cameras(metaworld.make(name))


def make_expert(name: str, env: Env) -> Expert:
    """The scripted policy, which looks at the whole state."""
    policy = metaworld.make_expert(name, env)

    def act(observation: Any, last_action: Any) -> np.ndarray:
        return policy({"state": env.full_state}, last_action)  # type: ignore[attr-defined]

    return act


def _task(name: str) -> Task:
    short = name.partition("/")[2]
    if short not in LEVELS:
        raise unknown("task", name, SUITE.names)
    twin = metaworld.task(f"metaworld/{short}")
    return replace(
        twin,
        name=name,
        make=partial(make, short),
        observation_space=OBSERVATION_SPACE,
        body="cameras/sawyer",
        make_expert=partial(make_expert, short),
        random=_borrowed(twin.random, twin.name),
        expert=_borrowed(twin.expert, twin.name),
    )


def _borrowed(score: Reference | None, owner: str) -> Reference | None:
    """A reference of the same task: neither random play nor the scripted policy looks at pictures."""
    return score and Reference(score.score, f"{score.source}; on {owner}, the same task")


SUITE = Suite(
    name="cameras",
    title="Meta-World seen through two cameras",
    names=tuple(f"cameras/{name}" for name in LEVELS),
    task=_task,
    requires=metaworld.SUITE.requires,
    extra=metaworld.SUITE.extra,
)

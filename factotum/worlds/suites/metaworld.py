"""Meta-World: 50 tasks of one robot arm, and the scripted policies that solve them (package metaworld).

Every seed places object and goal anew, and the goal is part of the state, as in MT1.
Reference: Yu et al., "Meta-World" (2019), arXiv 1910.10897, section 4.
"""

from __future__ import annotations

import copy
import warnings
from functools import cache, lru_cache, partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.worlds.suites.common import (
    Instructed,
    reference,
    render_offscreen,
    require,
    state_space,
    with_instruction,
)
from factotum.worlds.suites.task import Expert, ExpertFailure, Suite, Task

INSTRUCTIONS = {
    "assembly": "put the ring over the peg",
    "basketball": "dunk the basketball into the hoop",
    "bin-picking": "move the cube from one bin into the other",
    "box-close": "put the lid on the box",
    "button-press": "press the button",
    "button-press-topdown": "press the button from above",
    "button-press-topdown-wall": "reach over the wall and press the button from above",
    "button-press-wall": "reach around the wall and press the button",
    "coffee-button": "press the button of the coffee machine",
    "coffee-pull": "pull the mug away from the coffee machine",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial",
    "disassemble": "lift the ring off the peg",
    "door-close": "close the door",
    "door-lock": "lock the door",
    "door-open": "open the door",
    "door-unlock": "unlock the door",
    "drawer-close": "close the drawer",
    "drawer-open": "open the drawer",
    "faucet-close": "close the faucet",
    "faucet-open": "open the faucet",
    "hammer": "hit the nail with the hammer",
    "hand-insert": "put the hand into the hole",
    "handle-press": "press the handle down",
    "handle-press-side": "press the handle at the side down",
    "handle-pull": "pull the handle up",
    "handle-pull-side": "pull the handle at the side up",
    "lever-pull": "pull the lever up",
    "peg-insert-side": "insert the peg into the hole at the side",
    "peg-unplug-side": "pull the peg out of the hole at the side",
    "pick-out-of-hole": "pick the puck out of the hole",
    "pick-place": "pick the puck up and bring it to the goal",
    "pick-place-wall": "pick the puck up and bring it over the wall to the goal",
    "plate-slide": "slide the plate into the cabinet",
    "plate-slide-back": "slide the plate back out of the cabinet",
    "plate-slide-back-side": "slide the plate sideways out of the cabinet",
    "plate-slide-side": "slide the plate sideways into the cabinet",
    "push": "push the puck to the goal",
    "push-back": "push the block back to the goal",
    "push-wall": "push the puck around the wall to the goal",
    "reach": "reach the goal",
    "reach-wall": "reach around the wall to the goal",
    "shelf-place": "put the block on the shelf",
    "soccer": "push the ball into the goal",
    "stick-pull": "pull the box with the stick",
    "stick-push": "push the box with the stick",
    "sweep": "sweep the block off the table",
    "sweep-into": "sweep the block into the hole",
    "window-close": "close the window",
    "window-open": "open the window",
}
MAX_STEPS = 500
STATE_SIZE = 39  # hand and gripper 4, objects 14, the same a step before 18, goal 3
OBSERVATION_SPACE = with_instruction(state=state_space(STATE_SIZE))
ACTION_SPACE = spaces.Box(-1.0, 1.0, (4,), np.float32)  # hand velocity 3, gripper force 1


class Seeded(gymnasium.Wrapper):
    """Makes `reset(seed)` place object and goal, and clips actions to their bounds.

    The package ignores the seed given to reset and draws from numpy's global state.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """See `gymnasium.Env.reset`."""
        if seed is not None:
            self.unwrapped.seed(seed)  # type: ignore[attr-defined]
        return self.env.reset(options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """See `gymnasium.Env.step`."""
        return self.env.step(np.clip(action, -1.0, 1.0))

    def render(self) -> Any:
        """See `gymnasium.Env.render`."""
        render_offscreen()
        frame = np.asarray(self.env.render())
        return frame[::-1, ::-1].copy()  # this camera hangs upside down


@lru_cache(maxsize=2)
def _model(path: str) -> Any:
    """A compiled model: reading its meshes takes ten times as long as copying them."""
    import mujoco

    return mujoco.MjModel.from_xml_path(path)


@cache
def _environment_class(name: str) -> type:
    """The package's environment, observing its goal, random at each reset, with a cached model."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from mujoco import MjData

    base = ALL_V3_ENVIRONMENTS[f"{name}-v3"]

    class Environment(base):  # type: ignore[valid-type]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self._partially_observable = False
            del self.sawyer_observation_space  # cached for the hidden goal
            self._set_task_called = True
            self._freeze_rand_vec = False
            self.seeded_rand_vec = True

        def _initialize_simulation(self) -> tuple[Any, Any]:
            model = copy.deepcopy(_model(self.fullpath))
            model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
            model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
            return model, MjData(model)

    return Environment


def make(name: str) -> gymnasium.Env:
    """A Meta-World environment as Factotum's tasks see it.

    Args:
        name: name without suite and version, such as "door-open".

    Raises:
        UserError: metaworld is not installed.
    """
    require("metaworld", "metaworld")
    env = Seeded(_environment_class(name)(render_mode="rgb_array", camera_name="corner2"))
    env.action_space = ACTION_SPACE
    return Instructed(env, INSTRUCTIONS[name], OBSERVATION_SPACE, success=_succeeded)


def _succeeded(terminated: bool, info: dict[str, Any]) -> bool:
    return bool(info["success"])


def make_expert(name: str, env: gymnasium.Env) -> Expert:
    """The scripted policy of a task; it sees the state in float32, as the agent does."""
    from metaworld.policies import ENV_POLICY_MAP

    warnings.filterwarnings("ignore", message="Constant\\(s\\) may be too high")  # we clip, as the arm does
    policy = ENV_POLICY_MAP[f"{name}-v3"]()  # type: ignore[abstract]

    def act(observation: Any, last_action: Any) -> np.ndarray:
        action = np.asarray(policy.get_action(observation["state"].astype(np.float64)), np.float32)
        if not np.isfinite(action).all():
            raise ExpertFailure(f"policy of {name} gave {action}")
        return np.clip(action, -1.0, 1.0)

    return act


def task(name: str) -> Task:
    """The task of a full name.

    >>> task("metaworld/door-open").instruction
    'open the door'
    """
    short = name.partition("/")[2]
    return Task(
        name=name,
        make=partial(make, short),
        observation_space=OBSERVATION_SPACE,
        action_space=ACTION_SPACE,
        instruction=INSTRUCTIONS[short],
        body="metaworld/sawyer",
        measure="success",
        max_steps=MAX_STEPS,
        make_expert=partial(make_expert, short),
        random=reference(name, "random"),
        expert=reference(name, "expert"),
    )


SUITE = Suite(
    name="metaworld",
    title="Meta-World: 50 manipulation tasks of a robot arm",
    names=tuple(f"metaworld/{name}" for name in INSTRUCTIONS),
    task=task,
    requires=("metaworld", "mujoco"),
    extra="metaworld",
)

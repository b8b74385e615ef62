"""The 11 MuJoCo control tasks of JAT, in Gymnasium's v5 versions (package mujoco).

JAT used v4, which today's MuJoCo no longer runs in full (Pusher-v4 refuses it). v5 leaves out entries
that are always zero (Humanoid 376 to 348, Reacher 11 to 10, InvertedDoublePendulum 11 to 9), pays no
reward for the step that falls, gives Walker2d's feet the same friction and counts Humanoid's contact cost.
Ant alone is set back to v4: 27 numbers and no contact cost, instead of 105, most of them zero.
Random scores are measured on these versions. Expert scores are those of the scripted experts; where there
is none, JAT's, measured on v4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.core.checks import unknown
from factotum.worlds.suites.common import (
    Instructed,
    reference,
    render_offscreen,
    require,
    state_space,
    with_instruction,
)
from factotum.worlds.suites.jat import jat_reference
from factotum.worlds.suites.mujoco_experts import EXPERTS
from factotum.worlds.suites.task import Reference, Suite, Task


@dataclass(frozen=True)
class _Body:
    """Sizes of observation and action, the bound on actions, and what to do with the body."""

    state: int
    action: int
    bound: float
    instruction: str
    steps: int = 1000
    options: dict[str, Any] = field(default_factory=dict)


BODIES = {
    "Ant": _Body(
        27,
        8,
        1.0,
        "walk forward on four legs",
        options={"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0},
    ),
    "HalfCheetah": _Body(17, 6, 1.0, "run forward"),
    "Hopper": _Body(11, 3, 1.0, "hop forward on one leg"),
    "Humanoid": _Body(348, 17, 0.4, "walk forward without falling"),
    "HumanoidStandup": _Body(348, 17, 0.4, "stand up"),
    "InvertedDoublePendulum": _Body(9, 1, 1.0, "balance the two poles on the cart"),
    "InvertedPendulum": _Body(4, 1, 3.0, "balance the pole on the cart"),
    "Pusher": _Body(23, 7, 2.0, "push the cylinder to the goal", 100),
    "Reacher": _Body(10, 2, 1.0, "reach the target with the fingertip", 50),
    "Swimmer": _Body(8, 2, 1.0, "swim forward"),
    "Walker2d": _Body(17, 6, 1.0, "walk forward on two legs"),
}


def make(name: str) -> gymnasium.Env:
    """A body as this suite's tasks see it.

    Raises:
        UserError: mujoco is not installed.
    """
    require("mujoco", "mujoco")
    render_offscreen()
    body = BODIES[name]
    env = gymnasium.make(f"{name}-v5", render_mode="rgb_array", disable_env_checker=True, **body.options)
    return Instructed(env, body.instruction, with_instruction(64, state=state_space(body.state)))


def _task(name: str) -> Task:
    short = name.partition("/")[2]
    if short not in BODIES:
        raise unknown("task", name, SUITE.names)
    body = BODIES[short]
    return Task(
        name=name,
        make=partial(make, short),
        observation_space=with_instruction(64, state=state_space(body.state)),
        action_space=spaces.Box(-body.bound, body.bound, (body.action,), np.float32),
        instruction=body.instruction,
        body=name,
        measure="return",
        max_steps=body.steps,
        make_expert=EXPERTS.get(short),
        random=_reference(name, "random"),
        expert=_reference(name, "expert"),
    )


def _reference(name: str, kind: str) -> Reference | None:
    return reference(name, kind) or jat_reference(name, kind, note="measured on the v4 environment")


SUITE = Suite(
    name="mujoco",
    title="MuJoCo: 11 bodies to move",
    names=tuple(f"mujoco/{body}" for body in BODIES),
    task=_task,
    requires=("mujoco",),
    extra="mujoco",
)

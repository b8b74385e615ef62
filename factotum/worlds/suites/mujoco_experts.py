"""Scripted experts for the MuJoCo tasks that classical control solves. Each reads the simulator's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from factotum.worlds.suites.task import Expert


def balance(env: gymnasium.Env) -> Expert:
    r"""The linear-quadratic regulator of a cart with poles, around upright.

    $u = -K x$ with $x$ the positions and velocities, $K = (R + B^T P B)^{-1} B^T P A$ and $P$ the
    solution of the discrete Riccati equation for unit state cost and $R = 0.1$.
    """
    model, data = env.unwrapped.model, env.unwrapped.data  # type: ignore[attr-defined]
    gain = riccati_gain(*_linearised(model, env.unwrapped.frame_skip))  # type: ignore[attr-defined]
    bound = model.actuator_ctrlrange[:, 1]

    def act(observation: Any, last_action: Any) -> np.ndarray:
        control = -gain @ np.concatenate([data.qpos, data.qvel])
        return control.clip(-bound, bound).astype(np.float32)

    return act


def _linearised(model: Any, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """A (S, S) and B (S, U) of x' = A x + B u near rest, by central differences over one action.

    `mjd_transitionFD` would do it, but not for the Runge-Kutta integrator of these models.
    """
    import mujoco

    data = mujoco.MjData(model)
    half = model.nv
    step = 1e-4

    def after(point: np.ndarray) -> np.ndarray:
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = np.split(point, [half, 2 * half])
        mujoco.mj_step(model, data, nstep=repeats)
        return np.concatenate([data.qpos, data.qvel])

    moves = step * np.eye(2 * half + model.nu)
    jacobian = np.stack([(after(move) - after(-move)) / (2 * step) for move in moves], axis=1)
    return jacobian[:, : 2 * half], jacobian[:, 2 * half :]


def riccati_gain(
    dynamics: np.ndarray, push: np.ndarray, control_cost: float = 0.1, rounds: int = 2000
) -> np.ndarray:
    """The gain K of the infinite-horizon regulator, by iterating the Riccati equation.

    Args:
        dynamics: A (S, S) of x' = A x + B u.
        push: B (S, U).

    Returns:
        (U, S); u = -K x minimises the sum of |x|² + `control_cost` |u|².

    >>> riccati_gain(np.eye(1), np.eye(1), control_cost=0.0)
    array([[1.]])
    """
    state_cost = np.eye(len(dynamics))
    value = state_cost
    for _ in range(rounds):
        pushed = push.T @ value
        gain = np.linalg.solve(control_cost * np.eye(push.shape[1]) + pushed @ push, pushed @ dynamics)
        value = state_cost + dynamics.T @ value @ (dynamics - push @ gain)
    return gain


def reach(env: gymnasium.Env) -> Expert:
    """Inverse kinematics of Reacher's two links, then proportional-derivative control of the joints."""
    data = env.unwrapped.data  # type: ignore[attr-defined]
    stiffness, damping = 0.25, 0.05  # tuned by grid: the dearest term is the squared action

    def act(observation: Any, last_action: Any) -> np.ndarray:
        goals = elbow_angles(*data.qpos[2:4], upper=0.1, lower=0.11)
        errors = [_wrapped(goal - data.qpos[:2]) for goal in goals]
        error = min(errors, key=lambda each: float(abs(each).max()))
        return (stiffness * error - damping * data.qvel[:2]).clip(-1, 1).astype(np.float32)

    return act


def elbow_angles(x: float, y: float, upper: float, lower: float) -> list[np.ndarray]:
    """The two (shoulder, elbow) angles that put the tip of a planar arm at (x, y), or nearest to it.

    >>> [angles.round(3).tolist() for angles in elbow_angles(0.0, 2.0, 1.0, 1.0)]
    [[1.571, 0.0], [1.571, -0.0]]
    """
    cosine = (x**2 + y**2 - upper**2 - lower**2) / (2 * upper * lower)
    bend = np.arccos(np.clip(cosine, -1, 1))
    return [
        np.array([np.arctan2(y, x) - np.arctan2(lower * np.sin(elbow), upper + lower * np.cos(elbow)), elbow])
        for elbow in (bend, -bend)
    ]


def _wrapped(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi


# Found by augmented random search (Mania et al. 2018, arXiv 1803.07055), 420 episodes from zero.
SWIM_GAIN = np.array(
    [
        [1.93, -0.27, -2.51, -0.42, 1.91, 1.08, 2.56, -0.98],
        [1.5, 1.86, -0.58, 0.38, 1.87, -2.0, 2.22, 1.76],
    ]
)


def swim(env: gymnasium.Env) -> Expert:
    """A linear policy on the eight numbers observed, cut off at the bounds."""
    return lambda observation, last_action: (SWIM_GAIN @ observation["state"]).clip(-1, 1).astype(np.float32)


EXPERTS: dict[str, Callable[[gymnasium.Env], Expert]] = {
    "InvertedPendulum": balance,
    "InvertedDoublePendulum": balance,
    "Reacher": reach,
    "Swimmer": swim,
}

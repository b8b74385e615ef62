"""Experts for small problems: exact planning, and controllers from their equations of motion.

Each makes its plan once a process and is then a plain function of the observation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np

Transitions = dict[int, dict[int, list[tuple[float, int, float, bool]]]]
"""state -> action -> [(probability, next state, reward, terminated)], as toy-text environments give it."""


def value_iteration(transitions: Transitions, discount: float = 0.99, tolerance: float = 1e-10) -> np.ndarray:
    """The optimal action of each state.

    Q(s, a) = sum over s' of p(s' | s, a) (r + discount V(s')),  V(s) = max over a of Q(s, a)

    Args:
        transitions: the model.
        discount: weight of the next step.
        tolerance: greatest change of a value at which to stop.

    Returns:
        Actions, one a state.

    >>> two_steps = {0: {0: [(1.0, 0, 0.0, False)], 1: [(1.0, 1, 1.0, True)]}, 1: {0: [], 1: []}}
    >>> value_iteration(two_steps).tolist()
    [1, 0]
    """
    probability, successor, reward = _arrays(transitions)
    values = np.zeros(len(transitions))
    while True:
        action_values = reward + discount * (probability * values[successor]).sum(-1)
        updated = action_values.max(1)
        if np.abs(updated - values).max() < tolerance:
            return action_values.round(8).argmax(1)  # rounding breaks ties alike on every machine
        values = updated


def _arrays(transitions: Transitions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability and index of successors (states, actions, outcomes; 0 where final) and mean rewards."""
    states, actions = len(transitions), len(transitions[0])
    outcomes = max(1, *(len(found) for by_action in transitions.values() for found in by_action.values()))
    probability = np.zeros((states, actions, outcomes))
    successor = np.zeros((states, actions, outcomes), np.int64)
    reward = np.zeros((states, actions))
    for state, by_action in transitions.items():
        for action, found in by_action.items():
            for outcome, (chance, following, gain, terminated) in enumerate(found):
                probability[state, action, outcome] = 0.0 if terminated else chance
                successor[state, action, outcome] = following
                reward[state, action] += chance * gain
    return probability, successor, reward


# An infinite deck: ace, two to nine, and ten counted four times.
_CARDS = {card: (4 if card == 10 else 1) / 13 for card in range(1, 11)}


def _draw(total: int, usable: bool, card: int) -> tuple[int, bool]:
    """Sum and usable ace of a hand after one more card."""
    total, usable = (total + 11, True) if card == 1 and total + 11 <= 21 else (total + card, usable)
    return (total - 10, False) if total > 21 and usable else (total, usable)


@cache
def _dealer(total: int, usable: bool) -> dict[int, float]:
    """Chances of the dealer's final sum (0 when bust); the dealer draws below 17."""
    if total >= 17:
        return {total if total <= 21 else 0: 1.0}
    chances: dict[int, float] = {}
    for card, chance in _CARDS.items():
        for final, inner in _dealer(*_draw(total, usable, card)).items():
            chances[final] = chances.get(final, 0.0) + chance * inner
    return chances


def _stick_value(total: int, dealer: int) -> float:
    final_sums = _dealer(*_draw(0, False, dealer))
    return sum(chance * np.sign(total - final) for final, chance in final_sums.items())


@cache
def _hit_value(total: int, usable: bool, dealer: int) -> float:
    value = 0.0
    for card, chance in _CARDS.items():
        after = _draw(total, usable, card)
        best = -1.0 if after[0] > 21 else max(_stick_value(after[0], dealer), _hit_value(*after, dealer))
        value += chance * best
    return value


def blackjack_action(total: int, dealer: int, usable: bool) -> int:
    """Hit (1) or stick (0), whichever has the greater expected outcome against an infinite deck.

    >>> blackjack_action(12, 10, False), blackjack_action(20, 10, False)
    (1, 0)
    """
    return int(total < 21 and _hit_value(total, usable, dealer) > _stick_value(total, dealer))


@lru_cache(maxsize=1)
def mountain_car_policy(bins: int = 160) -> Callable[[np.ndarray], int]:
    """Fewest steps up the hill: value iteration on a grid, bilinear between its points.

    Args:
        bins: grid points along position and along velocity.

    Returns:
        Position and velocity -> action 0, 1 or 2.
    """
    position, velocity = np.meshgrid(
        np.linspace(-1.2, 0.6, bins), np.linspace(-0.07, 0.07, bins), indexing="ij"
    )
    following = [_mountain_car_step(position, velocity, action) for action in range(3)]
    corners = [_bilinear(*state, bins) for state in following]
    ended = [state[0] >= 0.5 for state in following]
    values = np.zeros((bins, bins))
    for _ in range(400):  # more steps than an episode has
        options = [_value(values, *corner, over) for corner, over in zip(corners, ended, strict=True)]
        values = np.where(position >= 0.5, 0.0, -1.0 + np.max(options, axis=0))

    def act(state: np.ndarray) -> int:
        scores = []
        for action in range(3):
            after = _mountain_car_step(np.float64(state[0]), np.float64(state[1]), action)
            scores.append(_value(values, *_bilinear(*after, bins), after[0] >= 0.5))
        return int(np.argmax(scores))

    return act


def _mountain_car_step(position: Any, velocity: Any, action: int) -> tuple[Any, Any]:
    velocity = np.clip(velocity + 0.001 * (action - 1) - 0.0025 * np.cos(3 * position), -0.07, 0.07)
    position = np.clip(position + velocity, -1.2, 0.6)
    return position, np.where((position == -1.2) & (velocity < 0), 0.0, velocity)


def _bilinear(position: Any, velocity: Any, bins: int) -> tuple[Any, Any, Any, Any]:
    """Lower grid corner and the fractions beyond it."""
    row, column = (position + 1.2) / 1.8 * (bins - 1), (velocity + 0.07) / 0.14 * (bins - 1)
    i, j = np.minimum(row.astype(int), bins - 2), np.minimum(column.astype(int), bins - 2)
    return i, j, row - i, column - j


def _value(values: np.ndarray, i: Any, j: Any, across: Any, along: Any, over: Any) -> Any:
    near = values[i, j] * (1 - along) + values[i, j + 1] * along
    far = values[i + 1, j] * (1 - along) + values[i + 1, j + 1] * along
    return np.where(over, 0.0, near * (1 - across) + far * across)


def mountain_car_continuous(state: np.ndarray) -> np.ndarray:
    """Push gently (force is charged by its square) the way the car moves, so that all work adds energy."""
    return np.array([0.4 if state[1] >= 0 else -0.4], np.float32)


_CART_POLE_GAIN = np.array([1.0, 2.0, 30.0, 7.0])  # position, velocity, angle, angular velocity; set by hand


def cart_pole(state: np.ndarray) -> int:
    """Balance by the sign of a linear feedback."""
    return int(_CART_POLE_GAIN @ state > 0)


def pendulum(state: np.ndarray) -> np.ndarray:
    """Pump energy until near the top, then hold by linear feedback; state: cos, sin, angular velocity.

    Energy relative to the top: E = theta_dot^2 / 6 + 5 (cos theta - 1), for unit mass and length.
    """
    cosine, sine, speed = (float(value) for value in state)
    angle = np.arctan2(sine, cosine)
    if cosine > 0.9 and abs(speed) < 4.0:
        torque = -12.0 * angle - 3.0 * speed
    else:
        energy = speed**2 / 6.0 + 5.0 * (cosine - 1.0)
        torque = -4.0 * energy * np.sign(speed if speed else 1.0)
    return np.array([np.clip(torque, -2.0, 2.0)], np.float32)


def acrobot(state: np.ndarray) -> int:
    """Torque against the upper link's motion: the lower link swings, and energy builds up in both."""
    return 2 if state[4] < 0 else 0

"""Planners for three Atari games: simple plans, each tried in a copy of the emulator, the best one followed.

They read the console's memory (ball, paddle, chicken) and are far slower than the game; what they
show is good play, not how a player who sees only the screen would find it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import gymnasium
import numpy as np

from factotum.worlds.suites.task import Expert

FRAME_SKIP = 4
"""Frames an action lasts."""

DISCOUNT = 0.995
LOST_LIFE = -20.0

Plan = Callable[[np.ndarray, int], int]
"""`plan(memory, step) -> action`: what to do `step` steps after the plan was taken up."""


@dataclass(frozen=True)
class Planner:
    """How to look ahead in one game.

    Args:
        plans: what is tried.
        horizon: how many actions each is played for.
        keep: how many actions the best is followed for before all are tried again.
        progress: worth of the memory at the end, a tie-breaker between rewards.
        one_point: look no further than the next point (games that serve anew after each).
    """

    plans: tuple[Plan, ...]
    horizon: int
    keep: int
    progress: Callable[[np.ndarray], float] = lambda memory: 0.0
    one_point: bool = False


def _pong(aim: int, memory: np.ndarray, step: int) -> int:
    """Hold the paddle `aim` lines below the ball."""
    paddle, ball = int(memory[51]), int(memory[54])
    if ball == 0:  # not in play
        return 0
    return _towards(ball + aim - paddle, up=3, down=2)


def _breakout(aim: int, memory: np.ndarray, step: int) -> int:
    """Hold the paddle `aim` columns right of the ball; serve when there is none."""
    paddle, ball, height = int(memory[72]), int(memory[99]), int(memory[101])
    if height == 0:
        return 1
    return _towards(ball + aim - paddle, up=2, down=3)


def _towards(distance: int, up: int, down: int) -> int:
    return 0 if abs(distance) <= 2 else (up if distance > 0 else down)


def _freeway(wait: int, retreat: bool, memory: np.ndarray, step: int) -> int:
    """Stand still (or go back) for `wait` actions, then walk."""
    return 1 if step >= wait else (2 if retreat else 0)


PLANNERS = {
    "Pong": Planner(tuple(partial(_pong, aim) for aim in range(-8, 9, 2)), 70, 30, one_point=True),
    "Breakout": Planner(tuple(partial(_breakout, aim) for aim in range(-12, 1, 2)), 60, 40),
    "Freeway": Planner(
        (*(partial(_freeway, wait, False) for wait in (0, 2, 4)), partial(_freeway, 3, True)),
        12,
        3,
        lambda memory: int(memory[14]) / 1000,
    ),
}


@lru_cache(maxsize=4)
def _emulator(rom: str) -> Any:
    """A second emulator with the same cartridge, for trying things out."""
    import ale_py

    emulator = ale_py.ALEInterface()
    emulator.setLoggerMode(ale_py.LoggerMode.Error)
    emulator.setFloat("repeat_action_probability", 0.0)
    cartridge = ale_py.roms.get_rom_path(rom)
    assert cartridge is not None, rom
    emulator.loadROM(cartridge)
    return emulator


def _worth(emulator: Any, state: Any, plan: Plan, planner: Planner) -> float:
    """Discounted reward of following a plan from a state, up to a point won or lost."""
    emulator.restoreState(state)
    actions, lives, total = emulator.getMinimalActionSet(), emulator.lives(), 0.0
    for step in range(planner.horizon):
        action = actions[plan(emulator.getRAM(), step)]
        reward = sum(emulator.act(action) for _ in range(FRAME_SKIP))
        total += DISCOUNT**step * reward
        if emulator.lives() < lives or reward < 0:
            return total + LOST_LIFE
        if emulator.game_over() or (reward and planner.one_point):
            break
    return total + planner.progress(emulator.getRAM())


def look_ahead(planner: Planner, env: gymnasium.Env) -> Expert:
    """The expert of one episode; which of equally good plans it takes, the episode's seed decides."""
    unwrapped: Any = env.unwrapped
    emulator = _emulator(unwrapped._game)
    generator = np.random.default_rng(unwrapped.np_random.bit_generator.state["state"]["state"])
    plan, step = planner.plans[0], planner.keep

    def act(observation: Any, last_action: Any) -> np.int64:
        nonlocal plan, step
        if step >= planner.keep:
            state, step = unwrapped.ale.cloneState(), 0
            plans = [planner.plans[int(index)] for index in generator.permutation(len(planner.plans))]
            plan = max(plans, key=lambda each: _worth(emulator, state, each, planner))
        action = plan(unwrapped.ale.getRAM(), step)
        step += 1
        return np.int64(action)

    return act


MEASURED: tuple[str, ...] = ("Breakout", "Freeway", "Pong")
"""Games whose planner is offered as the task's expert: those with a score over 20 episodes or more on record.

To add one, name it here and run `benchmarks/measure_references.py --tasks atari/<game> --kinds expert
--episodes 20` (slow: 20 episodes of Freeway take more than 4 minutes of CPU).
"""

EXPERTS: dict[str, Callable[[gymnasium.Env], Expert]] = {
    game: partial(look_ahead, PLANNERS[game]) for game in MEASURED
}

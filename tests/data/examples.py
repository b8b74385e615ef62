"""Episodes of every kind of space, for the tests of data."""

from __future__ import annotations

import string

import numpy as np
from gymnasium import spaces

from factotum.core.seeding import numpy_generator
from factotum.data.episode import Episode

OBSERVATIONS = spaces.Dict(
    {
        "instruction": spaces.Text(40, min_length=0, charset=string.printable + "éß"),
        "image": spaces.Box(0, 255, (40, 36, 3), np.uint8),
        "grid": spaces.MultiDiscrete(np.full((7, 7, 3), 11)),
        "state": spaces.Box(-np.inf, np.inf, (5,), np.float32),
        "direction": spaces.Discrete(4),
        "pair": spaces.Tuple((spaces.MultiBinary(3), spaces.Box(-1, 1, (2, 2), np.float32))),
    }
)
ACTIONS = {
    "discrete": spaces.Discrete(5, start=-2),
    "box": spaces.Box(-1, 1, (4,), np.float32),
    "text": spaces.Text(12, charset=string.printable),
    "dict": spaces.Dict({"move": spaces.Discrete(3), "say": spaces.Text(12, charset=string.printable)}),
}


def make_episode(seed: int, steps: int = 4, action: str = "discrete") -> Episode:
    """A random episode that follows from its seed."""
    generator = numpy_generator("example", seed)
    observation_space, action_space = OBSERVATIONS, ACTIONS[action]
    observation_space.seed(int(generator.integers(1 << 30)))
    action_space.seed(int(generator.integers(1 << 30)))
    observations = [observation_space.sample() for _ in range(steps + 1)]
    observations[0]["instruction"] = ""
    observations[-1]["instruction"] = "gruß é"
    actions = [action_space.sample() for _ in range(steps)]
    rewards = generator.normal(size=steps).tolist()
    return Episode.from_steps(observations, actions, rewards, True, False, seed, float(seed) / 7)

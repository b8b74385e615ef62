"""Worlds with a known Q, in numpy: a row's episode that ended is followed by a dummy step, as worlds do it."""

from typing import NamedTuple

import numpy as np


class Moved(NamedTuple):
    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    begun: np.ndarray


class Chain:
    """States 0 to `length`, one-hot: action 1 goes right, 0 left; 1 is paid at the right end, where it ends."""

    def __init__(self, count, length=4, longest=1000):
        self.count, self.length, self.longest = count, length, longest

    def reset(self):
        self.place, self.age = np.zeros(self.count, int), np.zeros(self.count, int)
        self.over = np.zeros(self.count, bool)
        return self.observe()

    def observe(self):
        return np.eye(self.length + 1, dtype=np.float32)[self.place]

    def step(self, action):
        begun = self.over
        moved = np.clip(self.place + np.where(action == 1, 1, -1), 0, self.length)
        self.place = np.where(begun, 0, moved)
        self.age = np.where(begun, 0, self.age + 1)
        terminated = ~begun & (self.place == self.length)
        truncated = ~begun & ~terminated & (self.age >= self.longest)
        self.over = terminated | truncated
        # a dummy step pays what must not be learnt from
        reward = np.where(begun, -50.0, terminated).astype(np.float32)
        return Moved(self.observe(), reward, terminated, truncated, begun)

    def best_q(self, discount):
        """Q of the best policy, (length, 2)."""
        right = discount ** np.arange(self.length - 1, -1, -1.0)
        left = discount * np.array([right[max(0, s - 1)] for s in range(self.length)])
        return np.stack([left, right], 1)


class Wage:
    """One state that pays 1 a step for ever, but play is stopped after `longest` steps: Q is 1 / (1 - discount)."""

    def __init__(self, count, longest=5, ends=False):
        self.count, self.longest, self.ends = count, longest, ends

    def reset(self):
        self.age, self.over = np.zeros(self.count, int), np.zeros(self.count, bool)
        return self.observe()

    def observe(self):
        return np.ones((self.count, 1), np.float32)

    def step(self, action):
        begun = self.over
        self.age = np.where(begun, 0, self.age + 1)
        self.over = ~begun & (self.age >= self.longest)
        never = np.zeros(self.count, bool)
        terminated, truncated = (self.over, never) if self.ends else (never, self.over)
        reward = np.where(begun, -50.0, 1.0).astype(np.float32)
        return Moved(self.observe(), reward, terminated, truncated, begun)


def play(learner, world, steps):
    """Let a learner play; what it measured last."""
    observation, last = world.reset(), {}
    while learner.steps < steps:
        moved = world.step(learner.act(observation))
        last = learner.observe(moved) or last
        observation = moved.observation
    return last

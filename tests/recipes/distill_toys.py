"""Teachers for tests: a rule that balances CartPole, in several shapes; tiny untrained networks for MinAtar."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from factotum.distill import PolicyNetwork, save_policy
from factotum.distill.config import PolicyConfig

ROOT = Path(__file__).parents[2]
CARTPOLE = "gym/CartPole-v1"
CHANNELS = {"minatar/breakout": (4, 3), "minatar/asterix": (4, 5), "minatar/space_invaders": (6, 4)}
"""Channels and actions."""


def balance(observation: np.ndarray) -> np.ndarray:
    """Q-values of pushing left and right: towards where the pole falls."""
    lean = observation[:, :4] @ np.array([0.1, 0.3, 1.0, 0.6], np.float32)
    return np.stack([-lean, lean], 1)


def choose(observation: np.ndarray) -> np.ndarray:
    """The same rule as actions."""
    return balance(observation).argmax(1)


def not_finite(observation: np.ndarray) -> np.ndarray:
    """A teacher that broke."""
    return np.full((len(observation), 2), np.nan)


def push(observation: np.ndarray) -> np.ndarray:
    """A continuous action for Pendulum: against the swing."""
    return 2 * np.clip(observation[:, :1] * 0 + observation[:, 2:] * 0.5, -1, 1)


def teacher(folder: Path, task: str, seed: int = 0, outputs: str = "q") -> Path:
    """A small untrained network for a game, saved; `far` apart in its Q-values, so that there is something to learn."""
    channels, actions = CHANNELS[task]
    torch.manual_seed(seed)
    config = PolicyConfig((channels, 10, 10), {task: actions}, ((4, 3, 1),), (8,), scale=1.0, outputs=outputs)
    network = PolicyNetwork(config)
    with torch.no_grad():
        network.heads[0][-1].weight *= 3
    save_policy(network, folder)
    return folder


def command(*options: object) -> subprocess.Popen[str]:
    """`factotum distill` in a process of its own."""
    words = [sys.executable, "-m", "factotum.cli", "distill", *map(str, options)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def small(out: Path, *teachers: object, hours: int = 2, steps: int = 320, updates: int = 40) -> list[object]:
    """Options of a run of seconds."""
    return [
        "--teachers", *teachers, "--out", out, "--hours", hours, "--steps-per-hour", steps,
        "--updates-per-hour", updates, "--replay-hours", 1.5,
        "--environments", 4, "--episodes", 4, "--device", "cpu", "--threads", 1, "--rows", 16,
    ]  # fmt: skip

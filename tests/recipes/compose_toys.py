"""A world with a known answer for compositions: which colour does the instruction name, on which side is light?

And a composition file for it, small enough to learn it in seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.worlds.suites.common import with_instruction
from factotum.worlds.suites.task import Reference, Suite, Task

COLOURS = ("red", "green", "blue")
STEPS = 3
OBSERVATIONS = with_instruction(
    64, image=spaces.Box(0, 255, (16, 16, 3), np.uint8), state=spaces.Box(-1.0, 1.0, (2,), np.float32)
)


class Look(gymnasium.Env):
    """Actions are pairs of colour and side; each of three steps has to be right."""

    observation_space = OBSERVATIONS
    action_space = spaces.Discrete(6)

    def __init__(self) -> None:
        self.render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.colour = int(self.np_random.integers(3))
        self.steps, self.won = 0, True
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.won, self.steps = self.won and int(action) == self.answer, self.steps + 1
        over = self.steps == STEPS
        return self._draw(), float(over and self.won), over, False, {"success": over and self.won}

    def _draw(self) -> Any:
        side = int(self.np_random.integers(2))
        self.answer = 2 * self.colour + side
        image = self.np_random.integers(0, 100, (16, 16, 3)).astype(np.uint8)
        image[:, 8 * side : 8 * side + 8] += 150
        state = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"instruction": f"go to the {COLOURS[self.colour]} ball", "image": image, "state": state}

    def render(self) -> np.ndarray:
        return np.zeros((16, 16, 3), np.uint8)


def task(name: str) -> Task:
    return Task(
        name=name,
        make=Look,
        observation_space=OBSERVATIONS,
        action_space=spaces.Discrete(6),
        instruction="look",
        body="look",
        measure="success",
        max_steps=STEPS,
        make_expert=lambda env: lambda observation, last: env.unwrapped.answer,
        random=Reference(1 / 216, "exact"),
        expert=Reference(1.0, "exact"),
    )


def suite() -> Suite:
    return Suite("look", "Left or right", ("look/Colours",), task)


ENTRY_POINTS = "[factotum.suites]\nlook = tests.recipes.compose_toys:suite\n"

FILE = """
[components.text]
kind = "sentence-encoder"
width = 16
depth = 1
heads = 2
window = 8

[components.vision]
kind = "vision-encoder"
frozen = true
width = 16
depth = 1
heads = 2
patch = 8
window = 4

[components.action]
kind = "decoder"
width = 32
depth = 2
heads = 2
window = 4

[join]
layers = 2
width = 32
heads = 2

[data]
tasks = ["look/Colours"]
folder = "FOLDER"
episodes = 64
steps = 4

[training]
steps = 120
batch = 16
rate = 5e-3
warmup = 10
checkpoint_every = 60
log_every = 25
device = "cpu"
threads = 1

[evaluation]
episodes = 24
"""


def write_file(folder: Path, text: str = FILE) -> Path:
    """A composition file whose data lies beside it."""
    path = folder / "look.toml"
    path.write_text(text.replace("FOLDER", str(folder / "data")))
    return path

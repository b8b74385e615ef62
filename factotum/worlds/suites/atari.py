"""The 57 Atari games of JAT, in the Arcade Learning Environment (package ale-py, ROMs included).

Conventions, which scores depend on: 4 frames an action, the pixel-wise maximum of the last two seen;
no sticky actions; the game's minimal action set; rewards as the game pays them, not clipped; an
episode is a whole game (all lives), at most 27,000 actions (108,000 frames); the seed draws 1 to 30
no-ops to start with; FIRE is never pressed for the agent. The screen is grey, averaged over areas to
80 x 80, the last four observations stacked as channels, newest last.
Reference: Machado et al., "Revisiting the Arcade Learning Environment" (2018), arXiv 1709.06009.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache, partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.core.checks import unknown
from factotum.worlds.suites.atari_experts import EXPERTS
from factotum.worlds.suites.common import reference, require, with_instruction
from factotum.worlds.suites.jat import jat_reference
from factotum.worlds.suites.task import Reference, Suite, Task

# Size of each game's minimal action set.
ACTIONS = {
    "Alien": 18,
    "Amidar": 10,
    "Assault": 7,
    "Asterix": 9,
    "Asteroids": 14,
    "Atlantis": 4,
    "BankHeist": 18,
    "BattleZone": 18,
    "BeamRider": 9,
    "Berzerk": 18,
    "Bowling": 6,
    "Boxing": 18,
    "Breakout": 4,
    "Centipede": 18,
    "ChopperCommand": 18,
    "CrazyClimber": 9,
    "Defender": 18,
    "DemonAttack": 6,
    "DoubleDunk": 18,
    "Enduro": 9,
    "FishingDerby": 18,
    "Freeway": 3,
    "Frostbite": 18,
    "Gopher": 8,
    "Gravitar": 18,
    "Hero": 18,
    "IceHockey": 18,
    "Jamesbond": 18,
    "Kangaroo": 18,
    "Krull": 18,
    "KungFuMaster": 14,
    "MontezumaRevenge": 18,
    "MsPacman": 9,
    "NameThisGame": 6,
    "Phoenix": 8,
    "Pitfall": 18,
    "Pong": 6,
    "PrivateEye": 18,
    "Qbert": 6,
    "Riverraid": 18,
    "RoadRunner": 18,
    "Robotank": 18,
    "Seaquest": 18,
    "Skiing": 3,
    "Solaris": 18,
    "SpaceInvaders": 6,
    "StarGunner": 18,
    "Surround": 5,
    "Tennis": 18,
    "TimePilot": 10,
    "Tutankham": 8,
    "UpNDown": 6,
    "Venture": 18,
    "VideoPinball": 9,
    "WizardOfWor": 10,
    "YarsRevenge": 18,
    "Zaxxon": 18,
}
SIZE = 80
"""Height and width of an observation: a multiple of the 16-pixel patches."""

STACK = 4
FRAME_SKIP = 4
MAX_STEPS = 27_000
MOST_NO_OPS = 30

OBSERVATION_SPACE = with_instruction(64, image=spaces.Box(0, 255, (SIZE, SIZE, STACK), np.uint8))


class Atari(gymnasium.Wrapper):
    """A game that shows every single frame (grey), played at one action in four frames.

    Args:
        env: ALE environment with `frameskip=1`, `obs_type="grayscale"`.
        instruction: what to do, in words.

    `screens` are the newest of this episode in full size, up to four, newest last.
    """

    def __init__(self, env: gymnasium.Env, instruction: str) -> None:
        super().__init__(env)
        self.instruction = instruction
        self.observation_space = OBSERVATION_SPACE
        self._steps = 0
        self._stack: deque[np.ndarray] = deque(maxlen=STACK)
        self.screens: deque[np.ndarray] = deque(maxlen=STACK)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Begin a game and wait for 1 to 30 frames, as the seed draws."""
        frame, info = self.env.reset(seed=seed, options=options)
        for _ in range(int(self.env.unwrapped.np_random.integers(1, MOST_NO_OPS + 1))):
            frame, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:
                frame, info = self.env.reset()
        self._steps = 0
        self.screens.clear()
        self.screens.append(frame)
        self._stack.extend([shrink(frame)] * STACK)
        return self._seen(), info

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        """Hold an action for four frames; the reward is their sum."""
        total, terminated, truncated, frames = 0.0, False, False, []
        for _ in range(FRAME_SKIP):
            frame, reward, terminated, truncated, info = self.env.step(int(action))
            total += float(reward)
            frames.append(frame)
            if terminated or truncated:
                break
        self._steps += 1
        self.screens.append(np.maximum.reduce(frames[-2:]))
        self._stack.append(shrink(self.screens[-1]))
        return self._seen(), total, bool(terminated), bool(truncated or self._steps >= MAX_STEPS), info

    def _seen(self) -> dict[str, Any]:
        return {"instruction": self.instruction, "image": np.stack(self._stack, axis=-1)}


@lru_cache(maxsize=8)
def _averages(size: int, length: int) -> np.ndarray:
    """The matrix (size, length) that averages `length` pixels over `size` equal intervals."""
    edges = np.arange(size + 1) * length / size
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) * size / length).astype(np.float32)


def shrink(frame: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Average a picture over areas.

    Args:
        frame: (H, W) uint8.

    Returns:
        (size, size) uint8.

    >>> shrink(np.array([[0, 100], [200, 100]], np.uint8), 1)
    array([[100]], dtype=uint8)
    """
    height, width = frame.shape
    small = _averages(size, height) @ frame.astype(np.float32) @ _averages(size, width).T
    return small.round().clip(0, 255).astype(np.uint8)


def make(game: str) -> gymnasium.Env:
    """A game as this suite's tasks see it.

    Raises:
        UserError: ale-py is not installed.
    """
    require("ale_py", "atari")
    import ale_py

    gymnasium.register_envs(ale_py)
    env = gymnasium.make(
        f"ALE/{game}-v5",
        frameskip=1,
        repeat_action_probability=0.0,
        full_action_space=False,
        obs_type="grayscale",
        max_num_frames_per_episode=-1,  # the limit is counted in actions, after the no-ops
        render_mode="rgb_array",
        disable_env_checker=True,
    )
    return Atari(env, instruction(game))


def instruction(game: str) -> str:
    """What the agent is told.

    >>> instruction("MsPacman")
    'play Ms Pacman'
    """
    words = "".join(f" {letter}" if letter.isupper() else letter for letter in game)
    return f"play{words}".replace("N Down", "n Down")


def _task(name: str) -> Task:
    game = name.partition("/")[2]
    if game not in ACTIONS:
        raise unknown("task", name, SUITE.names)
    return Task(
        name=name,
        make=partial(make, game),
        observation_space=OBSERVATION_SPACE,
        action_space=spaces.Discrete(ACTIONS[game]),
        instruction=instruction(game),
        body=name,
        measure="return",
        max_steps=MAX_STEPS,
        make_expert=EXPERTS.get(game),
        random=_reference(name, "random"),
        expert=_reference(name, "expert"),
    )


def _reference(name: str, kind: str) -> Reference | None:
    return reference(name, kind) or jat_reference(name, kind)


SUITE = Suite(
    name="atari",
    title="Atari: 57 games from grey 80 x 80 images",
    names=tuple(f"atari/{game}" for game in ACTIONS),
    task=_task,
    requires=("ale_py",),
    extra="atari",
)

"""`factotum play`: watch one episode, as a text trace or a video."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from factotum.core.checks import UserError
from factotum.recipes.agents import find_agent, require_installed
from factotum.training.evaluate import FIRST_SEED, EpisodeResult
from factotum.training.legal import check_observation
from factotum.training.rollouts import picture_of
from factotum.training.video import FILMS, fit_height, write_film
from factotum.worlds.suites import registry
from factotum.worlds.suites.task import Task

SHADES = " .:-=+*#%@"


@dataclass(frozen=True)
class Args:
    """Play one episode and show it."""

    task: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="TASK")]] = ""
    """full name, such as babyai/GoToLocal"""
    agent: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="AGENT")]] = "expert"
    """a run (its newest checkpoint), a checkpoint folder, or: random, expert, retrieve"""
    named_task: Annotated[str, tyro.conf.arg(name="task")] = ""
    """the task, where the first word is the agent: factotum play checkpoints/factotum-s --task babyai/BossLevel"""
    instruction: str | None = None
    """tell the agent this in place of the task's own instruction"""
    seed: int = FIRST_SEED
    """seed of the episode"""
    video: Path | None = None
    """write a film here, .mp4 or .gif, in place of the trace"""
    fps: float = 10.0
    """frames a second of the film"""
    height: int = 0
    """height of the film in pixels; 0 as the environment draws it, 256 at least"""
    draw: bool = False
    """draw the last picture in characters after the trace"""
    data: Path = Path("data")
    """folder with the demonstrations, for retrieve and prompts"""
    prompt_episodes: int = 0
    """demonstrations to draw a prompt from; 0 for no prompt"""
    temperature: float = 0.0
    """0 takes the likeliest action, above it samples"""


def main(args: Args) -> EpisodeResult:
    """Play, show, and say how it ended."""
    args = _in_order(args)
    task = registry.task(args.task)
    require_installed([task.name])
    if args.video is not None and args.video.suffix not in FILMS:
        raise UserError(f"video: expected a file name that ends in .gif or .mp4, got {args.video.name!r}")
    if args.instruction is not None and args.agent in ("expert", "random"):
        raise UserError(
            f"instruction: the {args.agent} agent does not read it; expected a checkpoint or retrieve"
        )
    agent = find_agent(
        args.agent, data=args.data, prompt_episodes=args.prompt_episodes, temperature=args.temperature
    )
    show = Show(task.name, trace=args.video is None, film=args.video is not None, draw=args.draw)
    make = task.make if args.instruction is None else lambda: Told(task, args.instruction or "")
    (result,) = agent.play(task, seeds=[args.seed], batch_size=1, make=make, watch=show)
    if args.video is not None:
        if not show.frames:
            raise UserError(f"video: {task.name} has nothing to draw")
        height = args.height or max(256, show.frames[0].shape[0])
        write_film(args.video, [fit_height(frame, height) for frame in show.frames], args.fps)
        print(f"video: {args.video}")
    ended = "gave up" if result.failed else "success" if result.success else "ended"
    print(
        f"{ended} after {result.length} steps, score {result.score:.4g} (seed {result.seed}, {agent.label})"
    )
    return result


def _in_order(args: Args) -> Args:
    """With `--task` the first word is who plays."""
    if not args.named_task:
        if not args.task:
            raise UserError("TASK: expected the name of a task, such as babyai/GoToLocal, got none")
        return args
    if args.task and args.agent != "expert":
        raise UserError(f"task: expected one of --task and TASK, got {args.named_task} and {args.task}")
    return replace(args, task=args.named_task, agent=args.task or args.agent, named_task="")


class Told:
    """An environment whose instruction is replaced; everything else is the environment's.

    Args:
        task: what to make.
        instruction: what the agent is told.

    Raises:
        UserError: the instruction does not fit its space.
    """

    def __init__(self, task: Task, instruction: str) -> None:
        self.env, self.instruction = task.make(), instruction
        check_observation(task.name, task.observation_space["instruction"], instruction)  # type: ignore[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, **options: Any) -> tuple[Any, dict]:
        """As the environment's, with the instruction replaced."""
        observation, info = self.env.reset(**options)
        return {**observation, "instruction": self.instruction}, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """As the environment's, with the instruction replaced."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return {**observation, "instruction": self.instruction}, float(reward), terminated, truncated, info


class Show:
    """A `watch` that prints a line a step, or keeps frames.

    Args:
        title: the task.
        trace: print a line a step.
        film: keep a frame a step.
        draw: draw the last picture in characters.
    """

    def __init__(self, title: str, *, trace: bool, film: bool, draw: bool) -> None:
        self.title, self.trace, self.film, self.draw = title, trace, film, draw
        self.frames: list[np.ndarray] = []
        self.steps, self.instruction = 0, ""

    def __call__(
        self, seed: int, env: Any, observation: Any, action: Any, reward: float, ended: bool
    ) -> None:
        """Look at one reset or step."""
        if self.trace:
            self._print(observation, action, reward)
        if self.film or (self.draw and ended):
            frame = picture_of(env, observation)
            if frame is not None:
                self.frames.append(frame)
        if self.draw and ended and self.frames:
            print(characters(self.frames[-1]))

    def _print(self, observation: Any, action: Any, reward: float) -> None:
        if action is None:
            print(f"{self.title}: {observation['instruction']}")
        else:
            self.steps += 1
            print(f"{self.steps:4d}  action {_action(action)}  reward {reward:+.3g}{_state(observation)}")
        if action is not None and observation["instruction"] != self.instruction and self.instruction:
            print(f"      {observation['instruction']}")
        self.instruction = observation["instruction"]


def _action(action: Any) -> str:
    if isinstance(action, str):
        return repr(action)
    return np.array2string(np.asarray(action), precision=2, suppress_small=True, floatmode="fixed")


def _state(observation: Any, most: int = 8) -> str:
    """The first numbers of a vector observation."""
    state = observation.get("state")
    if state is None:
        return ""
    numbers = " ".join(f"{value:.2f}" for value in np.asarray(state)[:most])
    return f"  state {numbers}{' …' if len(state) > most else ''}"


def characters(frame: np.ndarray, rows: int = 24) -> str:
    """A picture in characters, dark to light; a character is about twice as high as wide.

    >>> characters(np.full((4, 4, 3), 255, np.uint8), rows=2)
    '@@@@\\n@@@@'
    """
    small = fit_height(frame, 2 * rows).mean(-1)
    small = (small[0::2] + small[1::2]) / 2
    shades = np.array(list(SHADES))[(small / 256 * len(SHADES)).astype(int)]
    return "\n".join("".join(line) for line in shades)

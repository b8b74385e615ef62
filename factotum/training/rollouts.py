"""Keeps how an episode looked: instruction, what was done, a strip of pictures, a film where possible."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factotum.core.files import read_json, write_bytes_atomic, write_json_atomic
from factotum.training.evaluate import EpisodeResult
from factotum.training.video import (
    as_frame,
    can_film,
    evenly,
    fit_height,
    picture_strip,
    png_bytes,
    write_film,
)


@dataclass(frozen=True)
class Rollout:
    """One episode to be looked at.

    Args:
        task: full name.
        agent: label of who played.
        seed: of the episode.
        instruction: what the agent was told.
        answer: the last action where actions are text, else None.
        score: raw.
        length: steps.
        strip: PNG file of a few frames, beside this record; None where nothing can be seen.
        film: GIF file beside this record; None where none was made.
        problem: why no pictures could be taken, None where they could.
    """

    task: str
    agent: str
    seed: int
    instruction: str
    answer: str | None
    score: float
    length: int
    strip: str | None = None
    film: str | None = None
    problem: str | None = None


def picture_of(env: Any, observation: Any) -> np.ndarray | None:
    """What can be seen: the observation's image where there is one, else what the environment renders."""
    image = observation.get("image") if isinstance(observation, dict) else None
    rendered = env.render() if image is None or image.shape[-1] not in (1, 3) else image
    return None if not isinstance(rendered, np.ndarray) or rendered.ndim != 3 else as_frame(rendered)


class Recorder:
    """A `watch` for `evaluate` that keeps the frames of one episode.

    Args:
        seed: of the episode to keep.
        every: keep each n-th frame, and the last; doubled whenever `limit` frames are held.
        limit: frames held at most.
    """

    def __init__(self, seed: int, every: int = 1, limit: int = 64) -> None:
        self.seed, self.every, self.limit = seed, every, limit
        self.frames: list[np.ndarray] = []
        self.actions: list[Any] = []
        self.instruction = ""
        self.problem: str | None = None

    def __call__(
        self, seed: int, env: Any, observation: Any, action: Any, reward: float, ended: bool
    ) -> None:
        """Look at one reset or step."""
        if seed != self.seed:
            return
        if action is None:
            self.frames, self.actions, self.problem = [], [], None
            self.instruction = (
                str(observation.get("instruction", "")) if isinstance(observation, dict) else ""
            )
        else:
            self.actions.append(action)
        if self.problem is None and (ended or len(self.actions) % self.every == 0):
            self._take(env, observation)

    def _take(self, env: Any, observation: Any) -> None:
        try:
            frame = picture_of(env, observation)
        except Exception as error:  # a machine without a renderer must still get its scores
            self.problem = f"no pictures: {type(error).__name__}: {error}".splitlines()[0]
            return
        if frame is not None:
            self.frames.append(frame)
        if len(self.frames) >= self.limit:
            self.frames, self.every = self.frames[::2], self.every * 2

    def save(self, folder: Path | str, task: str, agent: str, result: EpisodeResult) -> Rollout:
        """Write the record, the strip and, where imageio is installed, a GIF; what there was is replaced."""
        folder, name = Path(folder), task.replace("/", "__")
        strip = film = None
        if len(self.frames) == 2 and np.array_equal(self.frames[0], self.frames[1]):
            del self.frames[1]  # a question and its answer: one picture
        if self.frames:
            strip = f"{name}.png"
            write_bytes_atomic(folder / strip, png_bytes(picture_strip(self.frames)))
        if len(self.frames) > 2 and can_film():
            film = f"{name}.gif"
            write_film(folder / film, [fit_height(frame, 128) for frame in evenly(self.frames, 60)])
        answer = self.actions[-1] if self.actions and isinstance(self.actions[-1], str) else None
        rollout = Rollout(
            task=task,
            agent=agent,
            seed=result.seed,
            instruction=self.instruction,
            answer=answer,
            score=result.score,
            length=result.length,
            strip=strip,
            film=film,
            problem=self.problem,
        )
        write_json_atomic(folder / f"{name}.json", asdict(rollout))
        return rollout


def read_rollout(folder: Path | str, task: str) -> Rollout | None:
    """The record of a task, or None."""
    file = Path(folder) / f"{task.replace('/', '__')}.json"
    return Rollout(**read_json(file)) if file.is_file() else None


def read_rollouts(folder: Path | str) -> list[Rollout]:
    """All records of a "videos" folder, by task."""
    return [Rollout(**read_json(file)) for file in sorted(Path(folder).glob("*.json"))]

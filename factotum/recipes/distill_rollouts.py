"""One game of the teacher beside one of the student, as pictures: the same start, two ways to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from factotum.core.files import write_bytes_atomic, write_json_atomic
from factotum.training.rollouts import Rollout
from factotum.training.video import (
    as_frame,
    can_film,
    evenly,
    fit_height,
    picture_strip,
    png_bytes,
    write_film,
)

PALETTE = (
    (37, 99, 168), (196, 98, 45), (47, 143, 107), (138, 90, 168), (176, 138, 30),
    (194, 71, 107), (58, 155, 179), (111, 125, 60), (122, 75, 54), (91, 107, 198),
)  # fmt: skip
"""Colours of the planes of an observation that says what is where; the first planes are on top."""


class Film:
    """A `watch` that keeps what the first environment shows in its first game.

    Args:
        limit: observations kept at most; beyond, every second one is dropped.
    """

    def __init__(self, limit: int = 64) -> None:
        self.limit, self.every, self.steps, self.over = limit, 1, 0, False
        self.kept: list[np.ndarray] = []

    def __call__(
        self, observation: np.ndarray, first: np.ndarray, action: np.ndarray, playing: np.ndarray
    ) -> None:
        """Look at a step of all environments."""
        self.over = self.over or not playing[0] or bool(self.steps and first[0])
        if self.over:
            return
        if self.steps % self.every == 0:
            self.kept.append(observation[0].copy())
        self.steps += 1
        if len(self.kept) >= self.limit:
            self.kept, self.every = self.kept[::2], self.every * 2


def picture_of(observation: np.ndarray) -> np.ndarray | None:
    """What an observation shows, (H, W, 3) uint8: the newest grey picture of a stack, or planes in colours.

    >>> picture_of(np.zeros((4, 84, 84), np.uint8)).shape, picture_of(np.zeros((7, 10, 10), bool)).shape
    ((84, 84, 3), (10, 10, 3))
    >>> picture_of(np.zeros(4, np.float32)) is None
    True
    """
    if observation.ndim != 3:
        return None
    if observation.dtype != bool:
        return as_frame(observation[-1].astype(np.uint8))
    picture = np.full((*observation.shape[1:], 3), 18, np.uint8)
    for plane in reversed(range(len(observation))):
        picture[observation[plane]] = PALETTE[plane % len(PALETTE)]
    return picture


def save_side_by_side(
    folder: Path, task: str, films: Mapping[str, Film], scores: Mapping[str, float]
) -> Rollout | None:
    """Write a strip (teacher above, student below), a film (left and right) and their record; None without pictures.

    Args:
        folder: the run's `videos`.
        task: which.
        films: "teacher" and "student".
        scores: of these games.
    """
    frames = {name: [picture_of(seen) for seen in films[name].kept] for name in ("teacher", "student")}
    if any(not pictures or pictures[0] is None for pictures in frames.values()):
        return None
    name = task.replace("/", "__")
    rows = [picture_strip(pictures, height=96) for pictures in frames.values()]  # type: ignore[arg-type]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    strip, film = f"{name}.png", None
    write_bytes_atomic(folder / strip, png_bytes(np.concatenate(rows)))
    if can_film() and max(map(len, frames.values())) > 2:
        film = f"{name}.gif"
        write_film(folder / film, _beside(*(list(pictures) for pictures in frames.values())))
    rollout = Rollout(
        task=task,
        agent=f"teacher above or left (score {scores['teacher']:g}), student below or right",
        seed=0,
        instruction="",
        answer=None,
        score=scores["student"],
        length=films["student"].steps,
        strip=strip,
        film=film,
    )
    write_json_atomic(folder / f"{name}.json", asdict(rollout))
    return rollout


def _beside(left: list[np.ndarray | None], right: list[np.ndarray | None]) -> list[np.ndarray]:
    """Two films as one; the shorter one stands still at its end."""
    both = []
    for index in range(max(len(left), len(right))):
        pair = [fit_height(film[min(index, len(film) - 1)], 128) for film in (left, right)]  # type: ignore[arg-type]
        both.append(np.concatenate([pair[0], np.full((128, 6, 3), 255, np.uint8), pair[1]], axis=1))
    return evenly(both, 60)

"""One game of a policy as pictures for its report."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from factotum.core.files import write_bytes_atomic, write_json_atomic
from factotum.recipes.distill_rollouts import Film, picture_of
from factotum.training.rollouts import Rollout
from factotum.training.video import can_film, evenly, fit_height, picture_strip, png_bytes, write_film


def save_game(folder: Path, task: str, film: Film, score: float) -> Rollout | None:
    """Write a strip, where imageio is installed a film, and their record; None where nothing can be seen.

    Args:
        folder: the run's `videos`.
        task: which.
        film: what was kept of the game.
        score: of it.
    """
    frames = [picture for seen in film.kept if (picture := picture_of(seen)) is not None]
    if not frames:
        return None
    name = task.replace("/", "__")
    strip, moving = f"{name}.png", None
    write_bytes_atomic(folder / strip, png_bytes(picture_strip(frames)))
    if can_film() and len(frames) > 2:
        moving = f"{name}.gif"
        write_film(folder / moving, [fit_height(frame, 128) for frame in evenly(frames, 60)])
    rollout = Rollout(
        task=task,
        agent="teacher",
        seed=0,
        instruction="",
        answer=None,
        score=score,
        length=film.steps,
        strip=strip,
        film=moving,
    )
    write_json_atomic(folder / f"{name}.json", asdict(rollout))
    return rollout

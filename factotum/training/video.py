"""Pictures of episodes: frames to strips, PNG, GIF and mp4. numpy and matplotlib; imageio for films."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from factotum.core.checks import UserError, missing_extra
from factotum.core.files import write_bytes_atomic

FILMS = (".gif", ".mp4")


def as_frame(picture: Any) -> np.ndarray:
    """A picture as (height, width, 3) uint8: grey is repeated, of other channel counts the first three kept.

    Raises:
        UserError: not a uint8 array of two or three dimensions.

    >>> as_frame(np.zeros((4, 6), np.uint8)).shape
    (4, 6, 3)
    """
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise UserError(
            f"expected a uint8 picture (height, width, channels), got {array.dtype} of {array.shape}"
        )
    array = array[..., None] if array.ndim == 2 else array
    return np.repeat(array[..., :1], 3, axis=-1) if array.shape[-1] < 3 else array[..., :3]


def fit_height(frame: np.ndarray, height: int) -> np.ndarray:
    """Scale to `height` rows: whole-number enlargement, or means over blocks, then a crop-free nearest pick.

    >>> fit_height(np.zeros((8, 10, 3), np.uint8), 32).shape
    (32, 40, 3)
    """
    shrink = max(1, frame.shape[0] // height)
    if shrink > 1:
        rows, columns = (size // shrink * shrink for size in frame.shape[:2])
        blocks = frame[:rows, :columns].reshape(rows // shrink, shrink, columns // shrink, shrink, 3)
        frame = blocks.mean((1, 3)).round().astype(np.uint8)
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    row = (np.arange(height) * frame.shape[0] // height)[:, None]
    return frame[row, np.arange(width) * frame.shape[1] // width]


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, evenly spread, first and last among them.

    >>> evenly(range(11), 3)
    [0, 5, 10]
    """
    if len(items) <= count:
        return list(items)
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, count)]


def picture_strip(
    frames: Sequence[np.ndarray], count: int = 6, height: int = 128, gap: int = 4
) -> np.ndarray:
    """Frames side by side on white, (height, width, 3) uint8.

    >>> picture_strip([np.zeros((8, 8, 3), np.uint8)] * 9, count=3, height=16, gap=2).shape
    (16, 52, 3)
    """
    if not frames:
        raise UserError("expected at least one frame, got none")
    space = np.full((height, gap, 3), 255, np.uint8)
    parts = [part for frame in evenly(frames, count) for part in (space, fit_height(as_frame(frame), height))]
    return np.concatenate(parts[1:], axis=1)


def png_bytes(frame: np.ndarray) -> bytes:
    """A picture as a PNG file.

    >>> png_bytes(np.zeros((2, 2, 3), np.uint8))[1:4]
    b'PNG'
    """
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, as_frame(frame), format="png")
    return file.getvalue()


def can_film() -> bool:
    """Whether films can be written here."""
    return find_spec("imageio") is not None


def write_film(path: Path | str, frames: Sequence[np.ndarray], fps: float = 10.0) -> None:
    """Write a .gif or .mp4, whole or not at all.

    Args:
        path: ends in ".gif" or ".mp4".
        frames: pictures of one size.
        fps: frames a second.

    Raises:
        UserError: another ending, no frames, or imageio (with ffmpeg for mp4) is not installed.
    """
    path = Path(path)
    if path.suffix not in FILMS:
        raise UserError(f"video: expected a file name that ends in .gif or .mp4, got {path.name!r}")
    if not frames:
        raise UserError("video: expected at least one frame, got none")
    for module in ("imageio", "imageio_ffmpeg") if path.suffix == ".mp4" else ("imageio",):
        if find_spec(module) is None:
            raise missing_extra("report", module)
    write_bytes_atomic(path, _encoded([_even(as_frame(frame)) for frame in frames], path.suffix, fps))


def _even(frame: np.ndarray) -> np.ndarray:
    """Even height and width, which video codecs want; the last row and column are repeated."""
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


def _encoded(frames: list[Any], suffix: str, fps: float) -> bytes:
    import tempfile

    import imageio.v2

    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "film" + suffix)
        if suffix == ".gif":
            imageio.v2.mimsave(file, frames, duration=1000 / fps, loop=0)
        else:
            imageio.v2.mimsave(file, frames, fps=fps, macro_block_size=2)
        return Path(file).read_bytes()

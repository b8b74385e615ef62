"""Fixed-width columns on disk, memory-mapped, and the windows of episodes that a training row is filled with.

What it does not know: what a column means, tokens, models.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from factotum.core.checks import UserError
from factotum.core.files import read_json, replace_folder, write_json_atomic

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Span:
    """Rows [start, stop) of a shard; spans of one segment see one another."""

    start: int
    stop: int
    segment: int


class Shard:
    """Columns of equal length whose rows are timesteps, and where each episode starts.

    Args:
        folder: what `write_shard` wrote.

    Raises:
        UserError: missing, torn or of another version.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        index = read_json(self.folder / "index.json")
        if index.get("format_version") != FORMAT_VERSION:
            raise UserError(
                f"{folder}: expected shard version {FORMAT_VERSION}, got {index.get('format_version')}"
            )
        self.information: dict[str, Any] = index["information"]
        self.offsets = np.asarray(index["offsets"], np.int64)
        self.columns = {name: self._open(name) for name in index["columns"]}

    def _open(self, name: str) -> np.ndarray:
        try:
            column = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.folder}/{name}.npy: expected a column, got: {error}") from error
        if len(column) != self.offsets[-1]:
            raise UserError(f"{self.folder}/{name}.npy: expected {self.offsets[-1]} rows, got {len(column)}")
        return column

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.offsets) - 1


def write_shard(
    folder: Path | str,
    episodes: Iterable[Mapping[str, np.ndarray]],
    information: Mapping[str, Any] | None = None,
) -> Shard:
    """Stream episodes (equal columns each, N rows) into a shard; whole or not at all, memory bounded.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as temporary:
    ...     shard = write_shard(f"{temporary}/a", [{"x": np.zeros((3, 2))}, {"x": np.ones((4, 2))}])
    ...     len(shard), shard.episodes, shard.columns["x"].shape
    (7, 2, (7, 2))

    Raises:
        UserError: no episodes, columns that differ between episodes, or a full disk.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        offsets, shapes = _append_all(temporary, episodes)
        for name, (dtype, shape) in shapes.items():
            _add_header(temporary, name, dtype, (offsets[-1], *shape))
        index = {
            "format_version": FORMAT_VERSION,
            "columns": sorted(shapes),
            "offsets": offsets,
            "information": dict(information or {}),
        }
        write_json_atomic(temporary / "index.json", index)
        replace_folder(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Shard(folder)


def _append_all(
    folder: Path, episodes: Iterable[Mapping[str, np.ndarray]]
) -> tuple[list[int], dict[str, tuple[np.dtype, tuple[int, ...]]]]:
    shapes: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    offsets = [0]
    files: dict[str, Any] = {}
    try:
        for number, episode in enumerate(episodes):
            here = {name: (column.dtype, column.shape[1:]) for name, column in episode.items()}
            lengths = {len(column) for column in episode.values()}
            if (shapes and here != shapes) or len(lengths) != 1:
                raise UserError(f"episode {number}: expected columns {shapes}, got {here}, lengths {lengths}")
            if not shapes:
                shapes = here
                files = {name: open(folder / f"{name}.raw", "wb") for name in shapes}  # noqa: SIM115
            for name, column in episode.items():
                files[name].write(np.ascontiguousarray(column).tobytes())
            offsets.append(offsets[-1] + lengths.pop())
    finally:
        for file in files.values():
            file.close()
    if offsets[-1] == 0:
        raise UserError("expected at least one episode with steps, got none")
    return offsets, shapes


def _add_header(folder: Path, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with open(folder / f"{name}.raw", "rb") as raw, open(folder / f"{name}.npy", "wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        shutil.copyfileobj(raw, out, 1 << 24)
    (folder / f"{name}.raw").unlink()


def fill_row(
    generator: np.random.Generator, offsets: np.ndarray, steps: int, prompt_share: float = 0.25
) -> list[Span]:
    """Spans of at most `steps` timesteps in all: a random window of an episode, short episodes one after another.

    In `prompt_share` of the windows, a prompt from another episode comes first: half of them end with that
    episode's end, half start anywhere in it (arXiv 2205.06175, section 2.2).

    >>> spans = fill_row(np.random.default_rng(0), np.array([0, 5, 9]), 8, prompt_share=0.0)
    >>> sum(span.stop - span.start for span in spans) <= 8
    True
    """
    spans: list[Span] = []
    left, segment = steps, 0
    while left > 0 and (not spans or left > steps // 8):
        window = _window(generator, offsets, left, prompt_share, segment)
        spans += window
        left -= sum(span.stop - span.start for span in window)
        segment += 1
    return spans


def _window(
    generator: np.random.Generator, offsets: np.ndarray, steps: int, prompt_share: float, segment: int
) -> list[Span]:
    episodes = len(offsets) - 1
    chosen = int(generator.integers(episodes))
    spans = []
    if episodes > 1 and steps > 1 and generator.random() < prompt_share:
        other = (chosen + 1 + int(generator.integers(episodes - 1))) % episodes
        at_end = bool(generator.random() < 0.5)
        spans.append(_cut(generator, offsets, other, steps // 2, segment, at_end=at_end))
        steps -= spans[0].stop - spans[0].start
    spans.append(_cut(generator, offsets, chosen, steps, segment))
    return spans


def _cut(
    generator: np.random.Generator,
    offsets: np.ndarray,
    episode: int,
    steps: int,
    segment: int,
    at_end: bool = False,
) -> Span:
    start, stop = int(offsets[episode]), int(offsets[episode + 1])
    length = min(steps, stop - start)
    begin = stop - length if at_end else start + int(generator.integers(stop - start - length + 1))
    return Span(begin, begin + length, segment)

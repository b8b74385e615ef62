"""How one episode lies in HDF5: Minari's layout, compressed. Knows neither tasks nor folders.

Minari's own writer stores images either as JPEG (lossy) or raw. Its reader takes any dataset filter,
so integers and text are deflated here: 10 to 30 times smaller for grids and rendered images.
Texts are fixed-length UTF-8, because HDF5 cannot compress strings of variable length.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from factotum.core.trees import Tree
from factotum.data.episode import Episode

COMPRESS_FROM = 4096
"""Bytes; below, a compressed dataset is not smaller, since each costs a page of bookkeeping."""

CHUNK = 1 << 20
"""Bytes of one compressed piece."""


@dataclass(frozen=True)
class StoredEpisode:
    """An episode in an open HDF5 file, to be copied as it is into another.

    Args:
        group: where it lies.
        seed: of its reset, None where not recorded.
        score: None where not recorded.
        steps: T.
    """

    group: h5py.Group
    seed: int | None
    score: float | None
    steps: int

    def __len__(self) -> int:
        return self.steps


@dataclass
class FileIndex:
    """What was written: per episode its seed, score and length."""

    seeds: list[int | None] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


def write_file(path: Path, episodes: Iterable[Episode | StoredEpisode]) -> FileIndex:
    """Write episodes into a new HDF5 file, one in memory at a time.

    Raises:
        OSError: the disk is full.
        ValueError: a text that HDF5 cannot hold.
    """
    with open(path, "wb+", buffering=0) as raw:
        target = _KeepsErrors(raw)
        index = _write(target, episodes)
        target.check()
    return index


class _KeepsErrors(io.RawIOBase):
    """A file that swallows what cannot be written and says so at `check`.

    HDF5 does not recover from a failed write: it fails again when it closes, prints pages and may crash.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self.raw = raw
        self.error: OSError | None = None

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += self.raw.write(view[done:])
        except OSError as error:
            self.error = self.error or error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return self.raw.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return self.raw.tell() if size is None else size

    def readinto(self, buffer: Any) -> int:
        return self.raw.readinto(buffer)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.raw.seek(offset, whence)

    def tell(self) -> int:
        return self.raw.tell()


def _write(target: io.BytesIO | _KeepsErrors, episodes: Iterable[Episode | StoredEpisode]) -> FileIndex:
    index = FileIndex()
    with h5py.File(target, "w") as file:
        for number, episode in enumerate(episodes):
            _add_episode(file, number, episode)
            index.seeds.append(episode.seed)
            index.scores.append(episode.score)
            index.lengths.append(len(episode))
            if isinstance(target, _KeepsErrors):
                target.check()
    return index


def pack(episodes: Iterable[Episode]) -> bytes:
    """Episodes as the bytes of one HDF5 file; `unpack` is the inverse.

    >>> packed = pack([Episode({"text": ["é", ""]}, np.array([1]), [0.5], [True], [False], seed=7)])
    >>> [(stored.seed, len(stored)) for stored in unpack(packed)]
    [(7, 1)]
    """
    buffer = io.BytesIO()
    _write(buffer, episodes)
    return buffer.getvalue()


def unpack(source: bytes | Path) -> Iterator[StoredEpisode]:
    """The episodes of a packed file or of a dataset's data file, in order; each is valid until the next.

    Raises:
        OSError: not an HDF5 file, or one that was cut short.
    """
    with h5py.File(h5py.h5f.open_file_image(source) if isinstance(source, bytes) else source, "r") as file:
        for index in range(len(file)):
            group = file[f"episode_{index}"]
            seed, score = group.attrs.get("seed"), group.attrs.get("score")
            yield StoredEpisode(
                group,
                None if seed is None else int(seed),
                None if score is None else float(score),
                int(group.attrs["total_steps"]),
            )


def count_episodes(path: Path) -> int:
    """How many episodes a data file holds."""
    with h5py.File(path, "r") as file:
        return len(file)


def _add_episode(file: h5py.File, index: int, episode: Episode | StoredEpisode) -> None:
    name = f"episode_{index}"
    if isinstance(episode, StoredEpisode):
        file.copy(episode.group, file, name)
        file[name].attrs["id"] = index
        return
    group = file.create_group(name)
    _write_tree(group, "observations", episode.observations)
    _write_tree(group, "actions", episode.actions)
    _write_leaf(group, "rewards", episode.rewards)
    _write_leaf(group, "terminations", episode.terminated)
    _write_leaf(group, "truncations", episode.truncated)
    group.attrs["id"] = index
    group.attrs["total_steps"] = len(episode)
    if episode.seed is not None:
        group.attrs["seed"] = episode.seed
    if episode.score is not None:
        group.attrs["score"] = episode.score


def _write_tree(group: h5py.Group, name: str, tree: Tree) -> None:
    if isinstance(tree, tuple):
        tree = {f"_index_{position}": child for position, child in enumerate(tree)}
    if not isinstance(tree, dict):
        _write_leaf(group, name, tree)
        return
    child_group = group.create_group(name)
    for key, child in tree.items():
        _write_tree(child_group, key, child)


def _write_leaf(group: h5py.Group, name: str, leaf: np.ndarray | list[str]) -> None:
    array = _encode_text(leaf) if isinstance(leaf, list) else leaf
    options: dict[str, Any] = {}
    # Floats hardly shrink (1.4 times, for four times the time of a write); integers and text do.
    if array.nbytes >= COMPRESS_FROM and array.dtype.kind != "f":
        steps = max(1, min(len(array), CHUNK * len(array) // array.nbytes))
        options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        options["chunks"] = (steps, *array.shape[1:])
    group.create_dataset(name, data=array, **options)


def _encode_text(texts: list[str]) -> np.ndarray:
    encoded = [text.encode("utf-8") for text in texts]
    for text, code in zip(texts, encoded, strict=True):
        if b"\0" in code:
            raise ValueError(f"expected text without NUL characters, got {text!r}")
    return np.array(encoded, h5py.string_dtype("utf-8", max(1, *map(len, encoded))))

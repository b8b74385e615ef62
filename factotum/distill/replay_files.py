"""A replay's files: what a slot holds, room made for all of it at once, the marks that tell whole slots from torn ones.

`frames.bin` holds a picture (or a vector) a slot, `records.bin` all else, `replay.json` sizes and how far the last
flush went. What lies beyond that is not looked at again. Knows no episodes.
"""

from __future__ import annotations

import fcntl
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from factotum.core.checks import UserError
from factotum.core.config import from_json_dict, to_json_dict
from factotum.core.files import read_json, write_json_atomic

FORMAT_VERSION = 1
HEAD, FRAMES, RECORDS, LOCK = "replay.json", "frames.bin", "records.bin", "lock"
CHUNK = 1024
"""Slots checked at a time."""

DTYPES = ("uint8", "bool", "float32")


@dataclass(frozen=True)
class Layout:
    """What a replay holds.

    Args:
        capacity: steps that can be drawn, the newest.
        spare: slots beyond them, which are written between two flushes.
        observation_shape: of one environment.
        frame_channels: the newest entries of the first axis, last in it: what is stored of an observation.
        actions: numbers of a label, 0 for no labels.
        dtype: of observations.
        action_shape: () for discrete actions, (A,) for continuous ones.
        task: what batches say they are of.
    """

    capacity: int
    spare: int
    observation_shape: tuple[int, ...]
    frame_channels: int
    actions: int
    dtype: str = "uint8"
    action_shape: tuple[int, ...] = ()
    task: str | None = None

    def __post_init__(self) -> None:
        if self.capacity < 1 or self.spare < 1 or self.actions < 0:
            raise UserError(
                f"replay: expected a capacity and a spare from 1 on and labels of 0 numbers or more, "
                f"got {self.capacity}, {self.spare} and {self.actions}"
            )
        if not self.observation_shape or min(self.observation_shape) < 1:
            raise UserError(f"replay: expected a shape of observations, got {self.observation_shape}")
        if self.frame_channels < 1 or self.observation_shape[0] % self.frame_channels:
            raise UserError(
                f"replay: expected frame_channels that divide the first of {self.observation_shape}, "
                f"got {self.frame_channels}"
            )
        if self.dtype not in DTYPES:
            raise UserError(f"replay: expected observations of {' or '.join(DTYPES)}, got {self.dtype}")

    @property
    def stack(self) -> int:
        """Frames in an observation."""
        return self.observation_shape[0] // self.frame_channels

    @property
    def slots(self) -> int:
        """Slots of the ring."""
        return self.capacity + self.spare

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Of what is stored of an observation."""
        return (self.frame_channels, *self.observation_shape[1:])

    @property
    def record(self) -> np.dtype:
        """What a slot holds beside its frame; the first two are not part of its mark."""
        action = np.int32 if self.action_shape == () else np.float32
        fields: list[Any] = [
            ("mark", np.uint64),
            ("next", np.int64),
            ("number", np.int64),
            ("previous", np.int64),
            ("flags", np.uint32),
            ("reward", np.float32),
            ("label", np.float32, (self.actions,)),
            ("action", action, self.action_shape),
        ]
        # whole 64-bit words, all of them in a field: numpy copies fields, not what lies between
        return np.dtype([*fields, ("filler", np.uint8, (-np.dtype(fields).itemsize % 8,))])


def marks(frames: np.ndarray, records: np.ndarray) -> np.ndarray:
    """A number a slot that a change of its contents changes: sum_i w_i x_i mod 2^64 over 64-bit words x, w odd.

    >>> layout = Layout(1, 1, (8,), 8, 0)
    >>> record, frame = np.zeros(1, layout.record), np.zeros((1, 8), np.uint8)
    >>> empty = marks(frame, record)
    >>> frame[0, 5] = 1
    >>> bool(marks(frame, record) == empty), bool(empty == 0)
    (False, False)
    """
    words = np.concatenate(
        [_words(records.view(np.uint8).reshape(len(records), -1))[:, 2:], _words(frames)], 1
    )
    golden = 0x9E3779B97F4A7C15
    weights = np.arange(1, words.shape[1] + 1, dtype=np.uint64) * np.uint64(golden) | np.uint64(1)
    return words @ weights + np.uint64(golden)


def _words(rows: np.ndarray) -> np.ndarray:
    """Each row's bytes as 64-bit words, filled up by zeros."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    missing = -flat.shape[1] % 8
    return (np.pad(flat, ((0, 0), (0, missing))) if missing else flat).view(np.uint64)


class ReplayFiles:
    """The arrays of a replay, in a folder or in memory.

    Args:
        folder: None keeps all in memory.
        layout: what it holds; an existing folder must hold the same.

    Raises:
        UserError: no room on the disk, another process has it open, or files that are missing, of another size,
            format or layout.
    """

    def __init__(self, folder: Path | None, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        self._lock: IO[str] | None = None
        self._maps: list[np.memmap] = []
        frames, records = (layout.slots, *layout.frame_shape), (layout.slots,)
        if folder is None:
            self.head: dict[str, Any] = {"total": 0, "low": 0, "last": []}
            self.frames, self.records = np.zeros(frames, layout.dtype), np.zeros(records, layout.record)
            return
        self.head = self._open_head(folder)
        self.frames = self._map(FRAMES, frames, np.dtype(layout.dtype))
        self.records = self._map(RECORDS, records, layout.record)

    def _open_head(self, folder: Path) -> dict[str, Any]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(folder / LOCK, "w")  # noqa: SIM115  held until `close`
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another process has this replay open") from error
        except OSError as error:
            raise UserError(f"cannot open a replay in {folder}: {error.strerror or error}") from error
        if (folder / HEAD).exists():
            layout, head = read_head(folder)
            if layout != self.layout:
                raise UserError(f"{folder}: expected a replay of {self.layout}, got one of {layout}")
            return head
        if (folder / FRAMES).exists():
            raise UserError(f"{folder}: expected {HEAD} beside {FRAMES}, found none; {remedy(folder)}")
        self.write_head({"total": 0, "low": 0, "last": []})
        return self.head

    def write_head(self, head: dict[str, Any]) -> None:
        """Say how far the files are valid."""
        self.head = head
        if self.folder is not None:
            described = {"format_version": FORMAT_VERSION, "layout": to_json_dict(self.layout)}
            write_json_atomic(self.folder / HEAD, {**described, **head})

    def _map(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        assert self.folder is not None
        path, size = self.folder / name, math.prod(shape) * dtype.itemsize
        found = path.stat().st_size if path.exists() else None
        if found != size:
            if self.head["total"] > 0:
                got = "no file" if found is None else f"{found:,} bytes"
                raise UserError(f"{path}: expected {size:,} bytes, got {got}; {remedy(self.folder)}")
            _reserve(path, size)
        self._maps.append(np.memmap(path, dtype, "r+", shape=shape))
        return self._maps[-1].view(np.ndarray)

    def verify(self, low: int, total: int) -> None:
        """Check every slot of the window [low, total).

        Raises:
            UserError: naming the first slot that does not hold what was written there.
        """
        for start in range(low, total, CHUNK):
            numbers = np.arange(start, min(start + CHUNK, total))
            slots = numbers % self.layout.slots
            records = self.records[slots]
            bad = (records["number"] != numbers) | (records["mark"] != marks(self.frames[slots], records))
            if bad.any():
                where = f"slot {slots[bad][0]} (step {numbers[bad][0]})"
                raise UserError(f"{self.folder}: {where} is damaged; {remedy(self.folder)}")

    def sync(self) -> None:
        """Have the disk hold what was written."""
        for mapped in self._maps:
            mapped.flush()

    def close(self) -> None:
        """Let the files go; what was not flushed is lost."""
        self._maps.clear()
        self.frames, self.records = self.frames[:0].copy(), self.records[:0].copy()
        if self._lock is not None:
            self._lock.close()


def read_head(folder: Path) -> tuple[Layout, dict[str, Any]]:
    """What a folder says that it holds: layout, and how far the last flush went.

    Raises:
        UserError: no replay, of another version, or damaged.
    """
    value = read_json(folder / HEAD)
    version = value.get("format_version") if isinstance(value, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(f"{folder / HEAD}: expected format version {FORMAT_VERSION}, got {version}")
    try:
        head = {key: value[key] for key in ("total", "low", "last")}
        layout = from_json_dict(Layout, value["layout"])
        whole = all(isinstance(n, int) for n in (head["total"], head["low"], *head["last"]))
        if not whole or not 0 <= head["low"] <= head["total"] <= head["low"] + layout.capacity:
            raise ValueError(f"window {head['low']} to {head['total']}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / HEAD}: expected a replay's description, got {error}; {remedy(folder)}"
        ) from error
    return layout, head


def remedy(folder: Path | None) -> str:
    """What to do about damage."""
    return f"remove {folder} to collect anew"


def _reserve(path: Path, size: int) -> None:
    """An empty file that has its room: writing to a mapped one on a full disk would end the process."""
    try:
        with open(path, "wb") as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"cannot reserve {size / 1e9:.2f} GB for {path}: {error.strerror or error}"
        ) from error

"""Finished pieces of a collection on disk: written whole or not at all, checked when they are read again.

Knows neither tasks nor the format of what a part holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from factotum.core.checks import UserError
from factotum.core.files import read_json, write_bytes_atomic, write_json_atomic


@dataclass(frozen=True)
class Outcome:
    """What came of one seed.

    Args:
        seed: of the episode.
        score: None when there is no episode.
        reason: why there is none.
    """

    seed: int
    score: float | None
    reason: str = ""


@dataclass(frozen=True)
class Part:
    """One finished chunk on disk.

    Args:
        path: its file.
        outcomes: one for each seed, ascending.
    """

    path: Path
    outcomes: tuple[Outcome, ...]

    def read(self) -> bytes:
        """The packed episodes."""
        return self.path.read_bytes().split(b"\n", 1)[1]


@contextlib.contextmanager
def exclusive(folder: Path | str) -> Iterator[None]:
    """Hold a folder for this process alone; the system lets go of it when the process ends, however it ends.

    Raises:
        UserError: another process holds it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process is collecting into {folder}") from error
        yield


def read_parts(folder: Path | str) -> list[Part]:
    """The whole parts in a folder; what is torn or altered is removed, so that it is played again.

    >>> read_parts("/nowhere")
    []
    """
    for torn in Path(folder).glob(".*.tmp"):
        torn.unlink()
    parts = []
    for path in sorted(Path(folder).glob("*.part")):
        part = _read_part(path)
        if part is None:
            path.unlink()
        else:
            parts.append(part)
    return parts


def _read_part(path: Path) -> Part | None:
    header, _, payload = path.read_bytes().partition(b"\n")
    try:
        values = json.loads(header)
    except ValueError:
        return None
    if values["crc32"] != zlib.crc32(payload):
        return None
    return Part(path, tuple(Outcome(**outcome) for outcome in values["outcomes"]))


def write_part(folder: Path, payload: bytes, outcomes: list[Outcome]) -> Part:
    """Write one part; a file of the same first seed is replaced.

    Raises:
        UserError: the disk is full; other parts are unharmed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_part(Path(folder), b"episodes", [Outcome(0, 1.0), Outcome(1, None, "hung")])
    ...     [part.read() for part in read_parts(folder)]
    [b'episodes']
    """
    header = {"crc32": zlib.crc32(payload), "outcomes": [asdict(outcome) for outcome in outcomes]}
    path = folder / f"{outcomes[0].seed:010d}.part"
    write_bytes_atomic(path, json.dumps(header).encode() + b"\n" + payload)
    return Part(path, tuple(outcomes))


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings beside the parts; refuse parts that other settings made."""
    path = folder / "settings.json"
    wanted = json.loads(json.dumps(settings))
    if not path.exists():
        write_json_atomic(path, wanted)
        return
    found = read_json(path)
    if found != wanted:
        raise UserError(
            f"{folder} holds an unfinished collection with {settings_difference(found, wanted)}: "
            "finish it with its own settings, or delete that folder"
        )


def settings_difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Where two settings differ, in words.

    >>> settings_difference({"noise": 0.1, "seed": 0}, {"noise": 0.0, "seed": 0})
    'noise 0.1 instead of 0.0'
    """
    keys = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    return ", ".join(f"{key} {found.get(key)!r} instead of {wanted.get(key)!r}" for key in keys)

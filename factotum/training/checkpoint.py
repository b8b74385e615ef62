"""Checkpoint folders: written beside their place, checked, renamed into it; read back whole or not at all.

`<run>/checkpoints/step-00001000/` holds the model's own files, `training_state.safetensors` (tensors by name)
and `training_state.json` (all else, with the size and CRC-32 of every file). Knows no model.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from factotum import __version__
from factotum.core.checks import UserError
from factotum.core.files import read_json, replace_folder, write_json_atomic

FORMAT_VERSION = 1
STATE, TENSORS = "training_state.json", "training_state.safetensors"


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates lies.

    >>> checkpoint_folder(Path("run"), 1000).as_posix()
    'run/checkpoints/step-00001000'
    """
    return run / "checkpoints" / f"step-{step:08d}"


def list_checkpoints(run: Path) -> list[Path]:
    """Finished checkpoint folders, oldest first."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted(f for f in folders if f.is_dir() and f.name.removeprefix("step-").isdigit())


def latest_checkpoint(run: Path) -> Path | None:
    """The newest finished checkpoint, or None."""
    return next(reversed(list_checkpoints(run)), None)


def remove_temporary(run: Path) -> None:
    """Remove the unfinished and half-deleted folders that a kill left."""
    for pattern in ("step-*.tmp", ".step-*.old"):
        for folder in (run / "checkpoints").glob(pattern):
            shutil.rmtree(folder)


def write_checkpoint(
    run: Path,
    step: int,
    *,
    write_model: Callable[[Path], None],
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint, whole or not at all, and remove all but the newest `keep`.

    Args:
        run: the run's folder.
        step: updates made.
        write_model: writes the model's files into the folder it is given.
        tensors: the rest of the training state, by name.
        state: JSON values to store with it.
        keep: how many checkpoints stay; 0 keeps all.

    Returns:
        The folder.

    Raises:
        UserError: it could not be written, for example because the disk is full; earlier ones are unharmed.
    """
    final = checkpoint_folder(run, step)
    temporary = final.with_name(final.name + ".tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_model(temporary)
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary / TENSORS)
        head = {"format_version": FORMAT_VERSION, "step": step, "versions": versions()}
        write_json_atomic(temporary / STATE, {**head, **state, "files": _describe(temporary)})
        _sync(temporary)
        replace_folder(temporary, final)
        _sync(final.parent)
    except (OSError, SafetensorError, UserError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror or error if isinstance(error, OSError) else error
        earlier = latest_checkpoint(run)
        unharmed = f"; {earlier} is unharmed" if earlier else ""
        raise UserError(f"cannot write the checkpoint {final}: {reason}{unharmed}") from error
    _remove_old(run, keep)
    return final


def _remove_old(run: Path, keep: int) -> None:
    for folder in list_checkpoints(run)[:-keep] if keep else []:
        # Renamed first: a kill while deleting must not leave a torn folder under a finished one's name.
        shutil.rmtree(folder.rename(folder.with_name(folder.name + ".tmp")))


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON state of a checkpoint, after checking every file in it.

    Raises:
        UserError: another format version, or a missing, truncated or altered file, by name.
    """
    state = read_json(folder / STATE)
    found = state.get("format_version") if isinstance(state, dict) else None
    if found != FORMAT_VERSION:
        raise UserError(f"{folder / STATE}: expected format_version {FORMAT_VERSION}, got {found}")
    for name, expected in state["files"].items():
        _check_file(folder / name, expected)
    return load_file(folder / TENSORS), state


def _check_file(path: Path, expected: Mapping[str, int]) -> None:
    if not path.is_file():
        raise UserError(f"checkpoint is incomplete: expected a file {path}, found none")
    found = _describe_file(path)
    for what in ("bytes", "crc32"):
        if found[what] != expected[what]:
            difference = f"expected {what} {expected[what]}, got {found[what]}"
            raise UserError(f"checkpoint is damaged: {path}: {difference}")


def _describe(folder: Path) -> dict[str, dict[str, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _describe_file(path) for path in files}


def _describe_file(path: Path) -> dict[str, int]:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return {"bytes": path.stat().st_size, "crc32": crc}


def _sync(folder: Path) -> None:
    """Have the disk hold a folder's files, and the folder itself, before anything is renamed."""
    for path in [*(path for path in folder.rglob("*") if path.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def require_same(saved: Any, wanted: Any, *, ignored: frozenset[str] = frozenset(), where: str = "") -> None:
    """Refuse to go on with changed settings.

    Args:
        saved: JSON values that a run was started with.
        wanted: the ones it is resumed with.
        ignored: names at the top that may change.
        where: path of the values, for the message.

    Raises:
        UserError: naming the first field that changed, what it was and what it is.

    >>> require_same({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}, where="config")
    Traceback (most recent call last):
    factotum.core.checks.UserError: cannot resume: config.b.c was 2 and is now 3
    """
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for name in sorted((set(saved) | set(wanted)) - ignored):
            require_same(saved.get(name), wanted.get(name), where=f"{where}.{name}" if where else name)
    elif saved != wanted:
        raise UserError(f"cannot resume: {where} was {saved!r} and is now {wanted!r}")


def plain_json(value: Any) -> Any:
    """A value as it reads back from JSON (tuples become lists)."""
    return json.loads(json.dumps(value))


def config_hash(values: Any) -> str:
    """A short hash of JSON values.

    >>> config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    packages = ("torch", "numpy", "accelerate")
    return {"factotum": __version__, **{package: version(package) for package in packages}}


def warn_of_versions(saved: Mapping[str, str], folder: Path) -> None:
    """Warn where a checkpoint was written by other versions: resuming is then not bit-equal."""
    for package, now in versions().items():
        if saved.get(package) != now:
            text = f"{folder} was written with {package} {saved.get(package)}, this is {now}"
            warnings.warn(f"{text}: results may differ in the last digits", stacklevel=2)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder against a second process; the lock ends with the process, however that ends.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = open(run / ".lock", "a")  # noqa: SIM115 (held until the end)
    except OSError as error:
        raise UserError(f"cannot write the run {run}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process is training in {run}") from error
        yield

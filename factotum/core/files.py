"""Writing that a kill or a full disk cannot tear: temporary file, fsync, rename."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from factotum.core.checks import UserError


def write_bytes_atomic(path: Path | str, data: bytes) -> None:
    """Replace `path` by `data`, whole or not at all.

    Raises:
        UserError: the disk is full or the folder cannot be written; what stood at `path` is unharmed.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; what was there is unchanged"
        ) from error


def write_text_atomic(path: Path | str, text: str) -> None:
    """`write_bytes_atomic` for UTF-8 text.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_text_atomic(Path(folder) / "a.txt", "hello")
    ...     (Path(folder) / "a.txt").read_text()
    'hello'
    """
    write_bytes_atomic(path, text.encode())


def write_json_atomic(path: Path | str, value: Any) -> None:
    """`write_bytes_atomic` for JSON, indented, keys in the order given."""
    write_text_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: the file is missing or does not parse.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise UserError(f"expected a file {path}, found none") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"expected JSON in {path}, got something that does not parse: {error}") from error


def append_json_line(path: Path | str, value: Any) -> None:
    """Append one JSON line in one write, so that a kill tears at most the last line.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     append_json_line(Path(folder) / "a.jsonl", {"step": 1})
    ...     read_json_lines(Path(folder) / "a.jsonl")
    [{'step': 1}]
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.exists() and path.stat().st_size > 0 and _last_byte(path) != b"\n"
        with open(path, "ab") as file:
            file.write((b"\n" if torn else b"") + json.dumps(value).encode() + b"\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def read_json_lines(path: Path | str) -> list[Any]:
    """All whole lines of a JSON-lines file; lines that a kill tore are left out, a missing file is empty."""
    path = Path(path)
    if not path.exists():
        return []
    values = []
    for line in path.read_bytes().split(b"\n"):
        try:
            values.append(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
    return values


def replace_folder(temporary: Path | str, final: Path | str) -> None:
    """Put a finished folder in its place; an older one there is moved aside first and removed after.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_text_atomic(Path(folder) / "new" / "a.txt", "hello")
    ...     replace_folder(Path(folder) / "new", Path(folder) / "final")
    ...     sorted(p.name for p in Path(folder).iterdir())
    ['final']
    """
    temporary, final = Path(temporary), Path(final)
    aside = final.with_name(f".{final.name}.old")
    if aside.exists():
        shutil.rmtree(aside)
    if final.exists():
        os.replace(final, aside)
    os.replace(temporary, final)
    shutil.rmtree(aside, ignore_errors=True)

"""What made a run: command lines, versions, machine. Kept beside its results."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from factotum.core.files import append_json_line, read_json_lines

PACKAGES = ("factotum", "torch", "numpy", "gymnasium", "minari", "accelerate", "tokenizers", "safetensors")
ENVIRONMENTS = ("minigrid", "metaworld", "mujoco", "ale-py", "scikit-learn")


def versions() -> dict[str, str]:
    """Python and the packages that results depend on; those not installed are left out.

    >>> "torch" in versions()
    True
    """
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *ENVIRONMENTS):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Operating system, processor kind and number of cores.

    >>> "cores" in machine()
    True
    """
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def record_command(run: Path | str, arguments: Sequence[str] | None = None) -> None:
    """Append the command line, the time and the versions to `<run>/commands.jsonl`.

    Args:
        run: the run's folder.
        arguments: by default those of this process.
    """
    words = list(sys.argv if arguments is None else arguments)
    line = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join([os.path.basename(words[0]), *words[1:]]),
        "versions": versions(),
        "machine": machine(),
    }
    append_json_line(Path(run) / "commands.jsonl", line)


def read_commands(run: Path | str) -> list[dict[str, Any]]:
    """All recorded command lines, oldest first."""
    return read_json_lines(Path(run) / "commands.jsonl")

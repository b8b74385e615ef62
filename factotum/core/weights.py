"""A folder of weights: where it is, what its config.json says, whether tensors fit a module.

What it does not know: formats of tensors, systems.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from factotum.core.checks import UserError, unknown
from factotum.core.files import read_json


def shipped_names(shipped: Path, system: str) -> list[str]:
    """Names of a system's weights among the folders of a package."""
    found = (path for path in shipped.glob("*/config.json") if _header(read_json(path))[0] == system)
    return sorted(path.parent.name for path in found)


def find_folder(name_or_folder: Path | str, shipped: Path, system: str) -> Path:
    """The folder of shipped weights of that name, else the folder itself.

    Args:
        name_or_folder: a name, or a folder (`./name` where both exist).
        shipped: where shipped weights are.
        system: whose names an error tells.

    Raises:
        UserError: there is neither.
    """
    named = shipped / Path(name_or_folder).name
    if str(name_or_folder) == named.name and (named / "config.json").is_file():
        return named
    if os.path.isdir(name_or_folder):  # unlike `Path`, does not take "" for the working directory
        return Path(name_or_folder)
    raise unknown("weights", str(name_or_folder), shipped_names(shipped, system))


def read_sizes(folder: Path, system: str, version: int) -> dict[str, Any]:
    """What `config` holds in a folder's config.json.

    Raises:
        UserError: the file is missing or torn, or of another system or format version.
    """
    stored = read_json(folder / "config.json")
    its_system, its_version = _header(stored)
    if (its_system, its_version) != (system, version):
        raise UserError(
            f"{folder}: expected weights of system {system!r}, version {version}, got {its_system!r}, "
            f"version {its_version!r}"
        )
    if not isinstance(stored.get("config"), dict):
        raise UserError(f"{folder}/config.json: expected a key 'config' with the sizes, got {sorted(stored)}")
    return stored["config"]


def _header(stored: object) -> tuple[object, object]:
    return (stored.get("system"), stored.get("format_version")) if isinstance(stored, dict) else (None, None)


def load_fitting(
    module: nn.Module, weights: Mapping[str, Tensor], path: Path | str, *, finite: bool = False
) -> None:
    """Load tensors that fit a module by name and shape, in the module's types.

    Args:
        module: what they are put into.
        weights: by name.
        path: where they come from, for errors.
        finite: whether every entry has to be.

    Raises:
        UserError: names or shapes differ, or an entry is not finite; nothing is loaded then.

    >>> load_fitting(nn.Linear(1, 1), {}, "here")
    Traceback (most recent call last):
    factotum.core.checks.UserError: here: weights do not fit: missing ['bias', 'weight'], unknown [], other shapes []
    """
    own = module.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if missing or extra or shapes:
        raise UserError(
            f"{path}: weights do not fit: missing {missing[:3]}, unknown {extra[:3]}, other shapes {shapes[:3]}"
        )
    for name, tensor in weights.items():
        if finite and not bool(tensor.isfinite().all()):
            raise UserError(f"{path}: expected finite weights, got others in {name}")
    module.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in weights.items()})

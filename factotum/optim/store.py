"""Weights of a core on disk: a folder with config.json and model.safetensors; those of the package have names.

What it does not know: how weights are trained.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

import factotum
from factotum.core.checks import UserError
from factotum.core.config import from_json_dict, to_json_dict
from factotum.core.files import write_bytes_atomic, write_json_atomic
from factotum.core.weights import find_folder, load_fitting, read_sizes, shipped_names
from factotum.optim.config import HierarchicalRNNConfig
from factotum.optim.model import HierarchicalRNNCore

FORMAT_VERSION = 1
SYSTEM = "optim"
SHIPPED = Path(factotum.__file__).parent / "weights"


def save_core(
    core: HierarchicalRNNCore, folder: Path | str, made_by: Mapping[str, Any] | None = None
) -> None:
    """Write configuration and weights; each file is written whole or not at all.

    Args:
        core: what to save.
        folder: made where it is not there.
        made_by: what led to these weights (command, seed, versions), for made_by.json.

    >>> from tempfile import TemporaryDirectory
    >>> core = HierarchicalRNNCore(HierarchicalRNNConfig())
    >>> with TemporaryDirectory() as folder:
    ...     save_core(core, folder)
    ...     weights_hash(load_core(folder)) == weights_hash(core)
    True
    """
    folder = Path(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in core.state_dict().items()}
    write_bytes_atomic(folder / "model.safetensors", save(weights))
    if made_by is not None:
        write_json_atomic(folder / "made_by.json", dict(made_by))
    config = {"format_version": FORMAT_VERSION, "system": SYSTEM, "config": to_json_dict(core.config)}
    write_json_atomic(folder / "config.json", config)


def shipped_cores() -> list[str]:
    """Names of the optimizer weights that come with the package."""
    return shipped_names(SHIPPED, SYSTEM)


def load_core(name_or_folder: Path | str) -> HierarchicalRNNCore:
    """A trained core, ready for use (no gradients are kept from its weights; `requires_grad_()` to train on).

    Args:
        name_or_folder: the name of shipped weights, or a folder that `save_core` wrote (`./name` where both exist),
            or the file model.safetensors in it.

    Raises:
        UserError: an unknown name, missing or torn files, another system or format version, weights that do
            not fit the configuration or are not finite.
    """
    if Path(name_or_folder).name == "model.safetensors" and os.path.isfile(name_or_folder):
        name_or_folder = Path(name_or_folder).parent
    folder = find_folder(name_or_folder, SHIPPED, SYSTEM)
    config = from_json_dict(HierarchicalRNNConfig, read_sizes(folder, SYSTEM, FORMAT_VERSION))
    core = HierarchicalRNNCore(config)
    _load_weights(core, folder / "model.safetensors")
    return core.eval().requires_grad_(False)


def weights_hash(core: HierarchicalRNNCore) -> str:
    """SHA-256 of configuration and weights: equal exactly for cores that compute the same.

    >>> core = HierarchicalRNNCore(HierarchicalRNNConfig())
    >>> len(weights_hash(core))
    64
    """
    digest = hashlib.sha256(json.dumps(to_json_dict(core.config), sort_keys=True).encode())
    for name, tensor in sorted(core.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"\n{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load_weights(core: nn.Module, path: Path) -> None:
    try:
        weights = load(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"expected weights in {path}, found no such file") from error
    except SafetensorError as error:
        raise UserError(f"expected weights in {path}, got a file that does not parse: {error}") from error
    load_fitting(core, weights, path, finite=True)

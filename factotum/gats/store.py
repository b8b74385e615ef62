"""Saving what was trained, with references to what was not: frozen components are known by their hash.

A folder has config.json (sizes, choices, what each component is) and model.safetensors: the GATS layers and the
components that are not frozen. To load it, the user gives the modules; frozen ones must be the very same weights.

What it does not know: what components compute.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from factotum.core.checks import UserError, unknown
from factotum.core.config import from_json_dict, to_json_dict
from factotum.core.files import read_json, write_bytes_atomic, write_json_atomic
from factotum.gats.component import Component, Tower
from factotum.gats.config import GATSConfig

FORMAT_VERSION = 1
HUB_OPTIONS = ("revision", "cache_dir", "force_download", "token", "local_files_only")


@dataclass
class Stored:
    """What a folder holds: sizes, components with the given modules in them, trained weights."""

    config: GATSConfig
    components: dict[str, Component]
    weights: dict[str, Tensor]
    path: Path


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of a module's names, shapes, types and values.

    >>> layer = nn.Linear(2, 2)
    >>> before = weights_hash(layer)
    >>> _ = layer.weight.data.add_(1e-3)
    >>> before == weights_hash(layer), len(before)
    (False, 64)
    """
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def trained_state(model: nn.Module, towers: Mapping[str, Tower]) -> dict[str, Tensor]:
    """A model's state without its frozen components; tied tensors once, under their first name."""
    frozen = tuple(f"components.{name}." for name, tower in towers.items() if tower.frozen)
    kept: dict[str, Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in model.state_dict().items():
        if not name.startswith(frozen) and _memory(tensor) not in seen:
            kept[name] = tensor
            seen.add(_memory(tensor))
    return kept


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride())


def save_trained(
    model: nn.Module, config: GATSConfig, towers: Mapping[str, Tower], folder: Path | str
) -> None:
    """Write the trained part and what the frozen components are; each file whole or not at all."""
    folder = Path(folder)
    weights = {name: x.detach().cpu().contiguous() for name, x in trained_state(model, towers).items()}
    write_bytes_atomic(folder / "model.safetensors", save(weights))
    write_json_atomic(
        folder / "config.json",
        {
            "format_version": FORMAT_VERSION,
            "system": "gats",
            "config": to_json_dict(config),
            "components": {name: _reference(tower) for name, tower in towers.items()},
        },
    )


def _reference(tower: Tower) -> dict[str, Any]:
    module = tower.module
    source = tower.source or getattr(getattr(module, "config", None), "_name_or_path", "") or None
    return {
        "choices": {
            "window": tower.window, "frozen": tower.frozen, "steered": tower.steered, "blocks": tower.path,
            "width": tower.width, "bidirectional": tower.bidirectional, "skip": tower.skip,
            "layout": tower.layout, "source": source,
        },
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "depth": tower.depth,
        "hash": weights_hash(module) if tower.frozen else None,
    }  # fmt: skip


def read_trained(name_or_folder: Path | str, modules: Mapping[str, nn.Module], **hub: Any) -> Stored:
    """Read what `save_trained` wrote, check that the given modules are those it was trained with.

    Args:
        name_or_folder: a folder, or a repository's name on the Hugging Face hub.
        modules: for each component its module; the weights of those that were trained are read.

    Raises:
        UserError: missing or torn files, another system or version, a component that is missing, unknown or has
            other weights; nothing has changed then.
    """
    folder = _folder(name_or_folder, hub)
    stored = read_json(folder / "config.json")
    header = (
        (stored.get("system"), stored.get("format_version")) if isinstance(stored, dict) else (None, None)
    )
    if header != ("gats", FORMAT_VERSION):
        raise UserError(
            f"{folder}: expected a model of system 'gats', version {FORMAT_VERSION}, got {header[0]!r}, "
            f"version {header[1]!r}"
        )
    references = stored.get("components")
    if not isinstance(references, dict) or not isinstance(stored.get("config"), dict):
        raise UserError(
            f"{folder}/config.json: expected keys 'config' and 'components', got {sorted(stored)}"
        )
    for name in modules:
        if name not in references:
            raise unknown("component", name, references)
    for name, reference in references.items():
        _check_reference(folder, name, reference, modules.get(name))
    components = {
        name: Component(modules[name], **reference["choices"]) for name, reference in references.items()
    }
    path = folder / "model.safetensors"
    return Stored(from_json_dict(GATSConfig, stored["config"]), components, _read_weights(path), path)


def _folder(name_or_folder: Path | str, hub: dict[str, Any]) -> Path:
    wrong = [name for name in hub if name not in HUB_OPTIONS]
    if wrong:
        raise unknown("option", wrong[0], HUB_OPTIONS)
    if os.path.isdir(name_or_folder):
        return Path(name_or_folder)
    if isinstance(name_or_folder, Path) or (not hub and str(name_or_folder).count("/") != 1):
        raise UserError(f"expected a folder with a saved model, found none at {name_or_folder}")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name_or_folder, **hub))


def _check_reference(folder: Path, name: str, reference: dict[str, Any], module: nn.Module | None) -> None:
    source = reference["choices"].get("source")
    said = f"{reference['class']}{f' from {source}' if source else ''}"
    if module is None:
        raise UserError(f"{folder}: component {name!r}: expected its module, a {said}, got none")
    if reference["hash"] is not None and (got := weights_hash(module)) != reference["hash"]:
        raise UserError(
            f"{folder}: component {name!r}: was trained with other weights: expected a {said} with hash "
            f"{reference['hash'][:12]}, got a {type(module).__name__} with {got[:12]}"
        )


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = load(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"expected weights in {path}, found no such file") from error
    except SafetensorError as error:
        raise UserError(f"expected weights in {path}, got a file that does not parse: {error}") from error
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"{path}: expected finite weights, got others in {name}")
    return weights


def load_trained(model: nn.Module, towers: Mapping[str, Tower], stored: Stored) -> None:
    """Put stored weights into a model, all or none.

    Raises:
        UserError: names or shapes that do not fit, with the components that they belong to in their names.
    """
    own, weights = trained_state(model, towers), stored.weights
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    shapes = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if missing or extra or shapes:
        raise UserError(
            f"{stored.path}: weights do not fit: missing {missing[:3]}, unknown {extra[:3]}, other shapes {shapes[:3]}"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])

"""What does one step compute? The next point from the last one, its value and a carried state.

Four cores with one interface: `LSTMCore` and `DNCCore` (`factotum.samplers.plain`), the paper's; `AxialCore`
(`factotum.samplers.axial`) and `AcquisitionCore` (`factotum.samplers.acquisition`), which serve every number of
dimensions. Here they are made, saved and loaded.
Weights are a folder with config.json and model.safetensors; those that come with the package have names.

What it does not know: functions, losses, search spaces, Optuna.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

import factotum
from factotum.core.checks import UserError
from factotum.core.config import from_json_dict, to_json_dict
from factotum.core.files import write_bytes_atomic, write_json_atomic
from factotum.core.weights import find_folder, load_fitting, read_sizes, shipped_names
from factotum.samplers.acquisition import AcquisitionCore as AcquisitionCore
from factotum.samplers.axial import AxialCore as AxialCore
from factotum.samplers.config import SamplerConfig as SamplerConfig
from factotum.samplers.plain import DNCCore as DNCCore
from factotum.samplers.plain import LSTMCore as LSTMCore

FORMAT_VERSION = 1
SYSTEM = "samplers"
SHIPPED = Path(factotum.__file__).parent / "weights"

SamplerCore = LSTMCore | DNCCore | AxialCore | AcquisitionCore
CORES: dict[str, type[LSTMCore] | type[DNCCore] | type[AxialCore] | type[AcquisitionCore]] = {
    "lstm": LSTMCore,
    "dnc": DNCCore,
    "axial": AxialCore,
    "acquisition": AcquisitionCore,
}


def make_core(config: SamplerConfig) -> SamplerCore:
    """An untrained core; torch's global generator draws the weights.

    >>> type(make_core(SamplerConfig(core="axial", width=8))).__name__
    'AxialCore'
    """
    return CORES[config.core](config)


def save_core(core: SamplerCore, folder: Path | str) -> None:
    """Write configuration and weights; each file is written whole or not at all.

    >>> from tempfile import TemporaryDirectory
    >>> core = make_core(SamplerConfig(width=8))
    >>> with TemporaryDirectory() as folder:
    ...     save_core(core, folder)
    ...     load_core(folder).config == core.config
    True
    """
    folder = Path(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in core.state_dict().items()}
    write_bytes_atomic(folder / "model.safetensors", save(weights))
    config = {"format_version": FORMAT_VERSION, "system": SYSTEM, "config": to_json_dict(core.config)}
    write_json_atomic(folder / "config.json", config)


def shipped_cores() -> list[str]:
    """Names of the sampler weights that come with the package."""
    return shipped_names(SHIPPED, SYSTEM)


def load_core(name_or_folder: Path | str) -> SamplerCore:
    """A trained core, ready for use (no gradients are kept from its weights; `requires_grad_()` to train on).

    Args:
        name_or_folder: the name of shipped weights, or a folder that `save_core` wrote (`./name` where both exist).

    Raises:
        UserError: an unknown name, missing or torn files, another system or format version, weights that do
            not fit the configuration or are not finite.
    """
    folder = find_folder(name_or_folder, SHIPPED, SYSTEM)
    core = make_core(from_json_dict(SamplerConfig, read_sizes(folder, SYSTEM, FORMAT_VERSION)))
    _load_weights(core, folder / "model.safetensors")
    return core.eval().requires_grad_(False)


def _load_weights(core: nn.Module, path: Path) -> None:
    try:
        weights = load(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"expected weights in {path}, found no such file") from error
    except SafetensorError as error:
        raise UserError(f"expected weights in {path}, got a file that does not parse: {error}") from error
    load_fitting(core, weights, path, finite=True)

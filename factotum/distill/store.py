"""A policy on disk: a folder with config.json, model.safetensors, README.md and made_by.json; nothing is unpickled.

What it does not know: how policies are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from factotum.core.checks import UserError
from factotum.core.config import from_json_dict, to_json_dict
from factotum.core.files import write_bytes_atomic, write_json_atomic, write_text_atomic
from factotum.core.weights import load_fitting, read_sizes
from factotum.distill.config import PolicyConfig
from factotum.distill.model import PolicyNetwork

FORMAT_VERSION = 1
SYSTEM = "distill"


def save_policy(
    network: PolicyNetwork,
    folder: Path | str,
    made_by: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
    card: str = "",
) -> None:
    """Write configuration, weights and model card; each file is written whole or not at all.

    Args:
        network: what to save.
        folder: made where it is not there.
        made_by: what led to these weights (command, seed, teachers, scores), for made_by.json and the card.
        half: weights in half precision, half the size; they are read as single precision again.
        card: more Markdown for README.md, for example a table of measured scores.

    Raises:
        UserError: weights that are not finite, or too large for half precision; nothing is written then.

    >>> from tempfile import TemporaryDirectory
    >>> from factotum.distill.config import mlp
    >>> network = PolicyNetwork(mlp(4, (8,), 2))
    >>> with TemporaryDirectory() as folder:
    ...     save_policy(network, folder, {"command": "factotum distill"})
    ...     torch.equal(load_policy(folder)(torch.ones(1, 4)), network(torch.ones(1, 4)))
    True
    """
    folder = Path(folder)
    kept = torch.float16 if half else torch.float32
    learnt = dict(network.named_parameters())  # statistics of observations keep their precision
    weights = {
        name: value.detach().cpu().to(kept if name in learnt else value.dtype).contiguous()
        for name, value in network.state_dict().items()
    }
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"{folder}: expected weights that are finite in {kept}, got others in {name}")
    write_bytes_atomic(folder / "model.safetensors", save(weights))
    if made_by is not None:
        write_json_atomic(folder / "made_by.json", dict(made_by))
    write_text_atomic(folder / "README.md", model_card(network, made_by or {}, half, card))
    header = {"format_version": FORMAT_VERSION, "system": SYSTEM, "parameters": network.parameter_count}
    write_json_atomic(folder / "config.json", {**header, "config": to_json_dict(network.config)})


def find_policy(path: Path | str) -> Path | None:
    """The folder of a policy: the path itself, or `policy` in the folder of a run; None where there is neither."""
    folders = (Path(path), Path(path) / "policy")
    return next((folder for folder in folders if (folder / "model.safetensors").is_file()), None)


def load_policy(folder: Path | str) -> PolicyNetwork:
    """The network that `save_policy` wrote, in single precision on the CPU, ready to act.

    Args:
        folder: of the policy, or of a run that ended with one.

    Raises:
        UserError: missing or torn files, another system or format version, weights that do not fit or are not finite.
    """
    folder = find_policy(folder) or Path(folder)
    if not folder.is_dir():
        raise UserError(f"expected a folder with a policy, found none at {folder}")
    network = PolicyNetwork(from_json_dict(PolicyConfig, read_sizes(folder, SYSTEM, FORMAT_VERSION)))
    path = folder / "model.safetensors"
    try:
        weights = load(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"expected weights in {path}, found no such file") from error
    except SafetensorError as error:
        raise UserError(f"expected weights in {path}, got a file that does not parse: {error}") from error
    load_fitting(network, weights, path, finite=True)
    return network.eval()


def model_card(network: PolicyNetwork, made_by: Mapping[str, Any], half: bool = False, more: str = "") -> str:
    """README.md of a policy.

    >>> from factotum.distill.config import net3
    >>> print(model_card(PolicyNetwork(net3({"atari/Pong": 6})), {}).splitlines()[0])
    # Policy for atari/Pong
    """
    config = network.config
    counts = ", ".join(f"{task} ({count})" for task, count in config.actions.items())
    rows = {
        "tasks (outputs)": counts,
        "observations": f"{config.observation_shape}, multiplied by {config.scale:.6g}",
        "outputs": config.outputs,
        "convolutions (channels, kernel, stride)": config.convolutions or "none",
        "dense layers": config.hidden or "none",
        "dense layers of each task": config.head_hidden or "none",
        "layer norm": "yes" if config.layer_norm else "no",
        **({"observations standardised": "yes"} if config.standardise else {}),
        "parameters": f"{network.parameter_count:,}, {'half' if half else 'single'} precision",
        **{str(name): value for name, value in made_by.items() if isinstance(value, str | int | float)},
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    use = "from factotum.distill import load_policy, PolicyAgent\n\nagent = PolicyAgent(load_policy(FOLDER))"
    parts = [
        f"# Policy for {', '.join(config.actions)}",
        "A network of Factotum's `distill` (Policy Distillation, arXiv 1511.06295).",
        f"| | |\n|---|---|\n{table}",
        f"```python\n{use}\n```",
        more.strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"

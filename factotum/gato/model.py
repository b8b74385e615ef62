"""What does one step compute? Embedding, causal transformer, logits (arXiv 2205.06175, sections 2.2-2.3).

What it does not know: spaces, datasets, environments, training. It sees `Batch`es of blocks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from factotum.core.checks import UserError
from factotum.core.config import from_json_dict, to_json_dict
from factotum.core.files import read_json, write_bytes_atomic, write_json_atomic
from factotum.core.weights import load_fitting
from factotum.gato.batch import IGNORED_SLOT, Batch, Block
from factotum.gato.config import GatoConfig
from factotum.gato.embedding import EMBEDDINGS
from factotum.gato.statistics import Statistics
from factotum.gato.text import TextTokenizer
from factotum.nn.blocks import Cache, Decoder

FORMAT_VERSION = 1


class Gato(nn.Module, PyTorchModelHubMixin, library_name="factotum", license="apache-2.0"):
    """One set of weights for many tasks, modalities and bodies (arXiv 2205.06175).

    Args:
        config: sizes and choices.
        tokenizer: needed where observations or actions hold text.
        statistics: needed for fused tokens with continuous observations.

    >>> from factotum.gato.config import gato_small
    >>> model = Gato(gato_small(layers=1, width=32, heads=2, head_size=16, feed_forward=64))
    >>> sum(parameter.numel() for parameter in model.parameters()) > 0
    True
    """

    def __init__(
        self, config: GatoConfig, tokenizer: TextTokenizer | None = None, statistics: Statistics | None = None
    ) -> None:
        super().__init__()
        if tokenizer is not None and tokenizer.size > config.vocabulary.text_size:
            raise UserError(
                f"tokenizer: expected at most text_size = {config.vocabulary.text_size} subwords, got {tokenizer.size}"
            )
        self.config, self.tokenizer, self.statistics = config, tokenizer, statistics or Statistics()
        self.table = nn.Embedding(config.vocabulary.size, config.width)
        self.embedding = EMBEDDINGS[config.tokens](config)
        self.decoder = Decoder(
            layers=config.layers,
            width=config.width,
            heads=config.heads,
            head_size=config.head_size,
            hidden=config.feed_forward,
            window=config.context,
            positions=config.positions,
            drop=config.stochastic_depth,
        )
        if config.tokens == "fused":
            self.slot_table = nn.Embedding(config.action_slots + 1, config.width)
            self.slot_hidden = nn.Linear(config.width, config.width)
            self.slot_output = nn.Linear(config.width, config.width)
        self.initialise()

    def initialise(self) -> None:
        """All initialisation: N(0, 0.02), residual outputs scaled by depth, `Slots` by their own width."""
        for name, parameter in self.named_parameters():
            if name.endswith(".maps"):
                nn.init.normal_(parameter, std=0.3 / self.config.code**0.5)
            elif name.endswith("codes.weight"):
                nn.init.normal_(parameter, std=0.3)
            elif parameter.dim() >= 2 and "patches" not in name:
                nn.init.normal_(parameter, std=0.02)
        for name, parameter in self.decoder.named_parameters():
            if name.endswith(("attention.output.weight", "feed_forward.output.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * self.config.layers) ** 0.5)

    def forward(self, batch: Batch) -> Float[Tensor, "M V"]:
        """Logits at the target positions of a batch, all positions in parallel."""
        x_BTD = self.embed(batch.blocks, batch.rows, batch.length)
        h_BTD = self.decoder(x_BTD, batch.segments_BT)
        return self.logits(h_BTD.flatten(0, 1).index_select(0, batch.target_where_M), batch.target_slot_M)

    def embed(self, blocks: list[Block], rows: int, length: int) -> Float[Tensor, "B T D"]:
        """Vectors of a batch's positions."""
        return self.embedding(blocks, rows, length, self.table)

    def logits(self, h_MD: Float[Tensor, "M D"], slot_M: Int[Tensor, " M"]) -> Float[Tensor, "M V"]:
        """Scores of all ids; input and output embeddings are tied. A slot asks for one scalar of a fused action."""
        if self.config.tokens == "fused":
            asked = self.slot_hidden(h_MD) + self.slot_table(slot_M - IGNORED_SLOT)
            h_MD = h_MD + self.slot_output(F.gelu(asked))
        return h_MD @ self.table.weight.to(h_MD.dtype).T

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the decoder, whose shapes are the same at every step; blocks of values are not."""
        self.decoder.compile(*args, **options)

    def initial_state(self, batch_size: int) -> Cache:
        """Nothing seen yet, for `batch_size` rows."""
        return self.decoder.initial_state(batch_size)

    def step(
        self, inputs: tuple[Float[Tensor, "B T D"], Bool[Tensor, "B T"]], state: Cache
    ) -> tuple[Float[Tensor, "B T D"], Cache]:
        """Append embedded positions; equals the parallel pass (`Decoder.step`)."""
        return self.decoder.step(inputs, state)

    def save_folder(self, folder: Path | str, dtype: torch.dtype | None = None) -> None:
        """Write configuration, weights, tokenizer and statistics; `dtype` shrinks the weights."""
        folder = Path(folder)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        if dtype is not None:
            weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
        write_bytes_atomic(folder / "model.safetensors", save(weights))
        write_json_atomic(folder / "statistics.json", self.statistics.to_json())
        if self.tokenizer is not None:
            self.tokenizer.save(folder / "tokenizer.json")
        config = {"format_version": FORMAT_VERSION, "system": "gato", "config": to_json_dict(self.config)}
        write_json_atomic(folder / "config.json", config)

    @classmethod
    def load_folder(cls, folder: Path | str) -> Gato:
        """Read what `save_folder` wrote, weights in single precision.

        Raises:
            UserError: missing files, another format version or system, missing or unknown weights, wrong shapes.
        """
        folder = Path(folder)
        stored = read_json(folder / "config.json")
        found = (
            (stored.get("system"), stored.get("format_version")) if isinstance(stored, dict) else (None, None)
        )
        if found != ("gato", FORMAT_VERSION):
            raise UserError(
                f"{folder}: expected a checkpoint of system 'gato', version {FORMAT_VERSION}, got {found[0]!r}, "
                f"version {found[1]}"
            )
        tokenizer = folder / "tokenizer.json"
        model = cls(
            from_json_dict(GatoConfig, stored["config"]),
            TextTokenizer.load(tokenizer) if tokenizer.exists() else None,
            Statistics(**read_json(folder / "statistics.json")),
        )
        model.load_weights(folder / "model.safetensors")
        return model

    def load_weights(self, path: Path | str) -> None:
        """Load weights strictly from a safetensors file.

        Raises:
            UserError: the file is missing or torn, or its names or shapes differ from the model's.
        """
        try:
            weights = load(Path(path).read_bytes())
        except FileNotFoundError as error:
            raise UserError(f"expected weights in {path}, found no such file") from error
        except SafetensorError as error:
            raise UserError(f"expected weights in {path}, got a file that does not parse: {error}") from error
        load_fitting(self, weights, path)

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save_folder(save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Gato:
        if os.path.isdir(model_id):
            return cls.load_folder(model_id)
        keys = ("revision", "cache_dir", "force_download", "token", "local_files_only")
        return cls.load_folder(snapshot_download(model_id, **{k: options[k] for k in keys if k in options}))

"""Small components of many families, built from configurations: nothing is downloaded.

Each has rows of elements: decoders one row with an arrival time for each element, encoders two rows a batch element.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from factotum.gats import Component

VOCABULARY = 40
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
IMAGE = {"image_size": 16, "patch_size": 8}
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class RowwiseBlock(nn.Module):
    """A residual block that mixes nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x)).tanh()


class Rowwise(nn.Module):
    """A plain module in which elements do not mix: what an output depends on comes through GATS alone."""

    def __init__(self, width: int = 6, depth: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RowwiseBlock(width) for _ in range(depth))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(x), "stream": x}


class PlainBlock(nn.Module):
    """Causal attention whose block returns a tuple."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        q, k, v = self.mix(self.norm(x)).chunk(3, -1)
        return x + nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True), None


class Plain(nn.Module):
    """A small decoder in plain torch, with dropout."""

    def __init__(self, width: int = 12, depth: int = 5) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(PlainBlock(width) for _ in range(depth))
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        for block in self.blocks:
            x = self.drop(block(x)[0])
        return self.head(x)


@dataclass(frozen=True)
class Family:
    """How to build one component, feed it and read its output."""

    name: str
    make: Callable[[], nn.Module]
    key: str
    read: Callable[[Any], Tensor]
    rows: int = 1
    elements: int = 5
    shape: tuple[int, ...] = ()
    skip: int = 0
    options: tuple[tuple[str, Any], ...] = ()

    def module(self, seed: int = 0) -> nn.Module:
        """Seeded, in evaluation mode, with weights large enough for every part to matter."""
        torch.manual_seed(seed)
        module = self.make().eval()
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.25)
        return module

    def component(self, seed: int = 0, **changes: Any) -> Component:
        return Component(self.module(seed), **{"window": 4, **dict(self.options), **changes})

    def inputs(self, batch: int, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        rows = batch * self.rows
        if self.shape:
            return {self.key: torch.randn(rows, *self.shape, generator=generator)}
        ids = torch.randint(3, VOCABULARY, (rows, self.elements), generator=generator)
        extra = {"input_features": torch.ones(rows, 8, 24)} if self.key == "decoder_input_ids" else {}
        return {self.key: ids, **extra}

    def times(self, batch: int) -> Tensor:
        """Elements at 0, 1, ..., or rows at 0, 2."""
        if self.rows == 1:
            return torch.arange(float(self.elements)).expand(batch, -1)
        return (2.0 * torch.arange(self.rows)).expand(batch, -1)

    def logits(self, output: Any, batch: int) -> Tensor:
        """What each element gives, `B S ...`."""
        x = self.read(output)[:, self.skip :]
        return x.reshape(batch, self.rows * x.shape[1], *x.shape[2:])


def _transformers(name: str, config: str, **sizes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        return getattr(transformers, name)(getattr(transformers, config)(**sizes))

    return make


def _whisper(part: str | None) -> Callable[[], nn.Module]:
    sizes = {
        "d_model": 16, "encoder_layers": 3, "decoder_layers": 4, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_mel_bins": 8,
        "max_source_positions": 12, "max_target_positions": 20, "decoder_start_token_id": 1, **TOKENS,
    }  # fmt: skip
    whole = _transformers("WhisperModel", "WhisperConfig", **sizes)
    return (lambda: whole().get_submodule(part)) if part else whole


LLAMA = {**SIZES, **TOKENS, "num_key_value_heads": 1}
GPT2 = {"n_embd": 24, "n_layer": 5, "n_head": 2, "n_positions": 32, **TOKENS}
CLIP_TEXT = {**SIZES, **TOKENS, "max_position_embeddings": 16}

ROWWISE = Family(
    "rowwise", Rowwise, "x", lambda o: o["logits"], shape=(5, 6), options=(("bidirectional", False),)
)
PLAIN = Family("plain", Plain, "tokens", lambda o: o, options=(("bidirectional", False),))
FAMILIES = [
    Family("llama", _transformers("LlamaForCausalLM", "LlamaConfig", **LLAMA), "input_ids", lambda o: o.logits),
    Family("gpt2", _transformers("GPT2LMHeadModel", "GPT2Config", **GPT2), "input_ids", lambda o: o.logits),
    Family("qwen3", _transformers("Qwen3ForCausalLM", "Qwen3Config", **LLAMA, head_dim=8), "input_ids",
           lambda o: o.logits),
    Family("bert", _transformers("BertModel", "BertConfig", **SIZES, **TOKENS), "input_ids",
           lambda o: o.last_hidden_state, rows=2),
    Family("vit", _transformers("ViTModel", "ViTConfig", **SIZES, **IMAGE), "pixel_values",
           lambda o: o.last_hidden_state, rows=2, elements=4, shape=(3, 16, 16), skip=1),
    Family("whisper-encoder", _whisper("encoder"), "input_features", lambda o: o.last_hidden_state, rows=2,
           elements=12, shape=(8, 24)),
    Family("whisper-decoder", _whisper(None), "decoder_input_ids", lambda o: o.last_hidden_state,
           options=(("blocks", "decoder.layers"),)),
    Family("clip-vision", _transformers("CLIPVisionModel", "CLIPVisionConfig", **SIZES, **IMAGE), "pixel_values",
           lambda o: o.last_hidden_state, rows=2, elements=4, shape=(3, 16, 16), skip=1),
    Family("clip-text", _transformers("CLIPTextModel", "CLIPTextConfig", **CLIP_TEXT), "input_ids",
           lambda o: o.last_hidden_state, options=(("bidirectional", False),)),
    PLAIN,
    ROWWISE,
]  # fmt: skip
BY_NAME = {family.name: family for family in FAMILIES}


def wake(model: nn.Module, seed: int = 1, std: float = 0.3) -> nn.Module:
    """Give the updates, which start at zero, some weight."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".scatters." in name:
            parameter.data.normal_(std=std, generator=generator)
    return model
